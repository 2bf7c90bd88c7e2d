// Package ratios measures Sallyport, every gate on, beside a server without gates
// and beside ONNX Runtime alone: in one run, and as ratios.
package ratios

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/target"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Settings say how long everything is measured.
type Settings struct {
	// Rounds is how many slices each contestant of a case has; Warmup and Slice
	// are how long one is.
	Rounds        int
	Warmup, Slice time.Duration
	// Most is how many calls are open at once at the most; 0 for as many as a case
	// wants.
	Most int
}

// patient lets calls wait as long as those of the bare server do: 64 runs of 1 MiB at
// once would else be refused, which is right for callers and no measure of speed.
const patient = "max_queue_delay: 10s"

// Full takes some five minutes, Short half a minute; Moment is for tests.
var (
	Moment = Settings{Rounds: 1, Warmup: 2 * time.Millisecond, Slice: 20 * time.Millisecond, Most: 2}
	Full   = Settings{Rounds: 3, Warmup: 200 * time.Millisecond, Slice: time.Second}
	Short  = Settings{Rounds: 2, Warmup: 20 * time.Millisecond, Slice: 80 * time.Millisecond}
)

func (s Settings) config(callers int) compare.Config {
	return compare.Config{Rounds: s.Rounds, Callers: callers, Warmup: s.Warmup, Duration: s.Slice}
}

// Case is one comparison: the first contestant is what the others are compared
// with.
type Case struct {
	Name string
	// Rows is how many a call or batch has, Bytes how many its request; Callers is
	// how many calls, or streams, are open at once.
	Rows, Bytes, Callers int
	// Rate is the calls a second of an open loop; 0 for a closed one.
	Rate     float64
	Measured []compare.Measured
}

// Results are all of them.
type Results struct {
	Settings                              Settings
	Unary, Latency, Streams, Batch, Gates []Case
}

// bench is a run with what it needs.
type bench struct {
	Settings
	site            *target.Site
	bare, sallyport *target.Process
	// inMemory is sallyport whose log is on a file system in memory; nil where there
	// is none. What it is better by is the disk's.
	inMemory *target.Process
	progress io.Writer
	conns    map[*target.Process]*grpc.ClientConn
	remove   []string // directories, once no server runs
}

// Run measures in the site, whose processor both servers and the client share.
// What goes on is told on progress.
func Run(ctx context.Context, site *target.Site, set Settings, library string, progress io.Writer) (_ *Results, err error) {
	b := &bench{Settings: set, site: site, progress: progress, conns: map[*target.Process]*grpc.ClientConn{}}
	var servers []*target.Process
	defer func() {
		for _, conn := range b.conns {
			err = errors.Join(err, conn.Close())
		}
		for _, p := range servers {
			err = errors.Join(err, p.Stop())
		}
		for _, dir := range b.remove {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	start := func(p *target.Process, err error) (*target.Process, error) {
		if err != nil {
			return nil, err
		}
		servers = append(servers, p)
		b.conns[p], err = site.Dial(p, 0)
		return p, err
	}
	if b.bare, err = start(site.StartBare(ctx)); err != nil {
		return nil, err
	}
	if b.sallyport, err = start(site.StartSallyport(ctx, target.Sallyport{Runtime: patient})); err != nil {
		return nil, err
	}
	if dir, err := os.MkdirTemp(memory, "bench"); err == nil {
		b.remove = append(b.remove, dir)
		if b.inMemory, err = start(site.StartSallyport(ctx, target.Sallyport{AuditDir: dir + "/audit", Runtime: patient})); err != nil {
			return nil, err
		}
	}

	r := &Results{Settings: set}
	for _, step := range []struct {
		into *[]Case
		run  func(context.Context) ([]Case, error)
	}{
		{&r.Unary, b.unary},
		{&r.Latency, func(ctx context.Context) ([]Case, error) { return b.latency(ctx, r.Unary) }},
		{&r.Streams, b.streams},
		{&r.Batch, func(ctx context.Context) ([]Case, error) { return b.batches(ctx, library) }},
		{&r.Gates, func(ctx context.Context) ([]Case, error) { return b.gates(ctx, start) }},
	} {
		if *step.into, err = step.run(ctx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// compare runs one case.
func (b *bench) compare(ctx context.Context, c Case, contestants ...compare.Contestant) (Case, error) {
	if b.Most > 0 {
		c.Callers = min(c.Callers, b.Most)
	}
	cfg := b.config(c.Callers)
	if c.Rate > 0 {
		// Enough that a call waits in the server and not for a caller.
		cfg.Rate, cfg.Callers = c.Rate, 256
	}
	var err error
	if c.Measured, err = compare.Run(ctx, cfg, contestants...); err != nil {
		return c, fmt.Errorf("%s, %d at once: %w", c.Name, c.Callers, err)
	}
	for _, m := range c.Measured[1:] {
		_, _ = fmt.Fprintf(b.progress, "%-34s %3d at once  %-24s %s of %s\n",
			c.Name, c.Callers, m.Name, compare.Ratio(&c.Measured[0], &m, compare.Throughput), c.Measured[0].Name)
	}
	return c, nil
}

// calls is a contestant that answers unary calls, all of them on one connection.
func (b *bench) calls(name string, p *target.Process, r *target.Request) compare.Contestant {
	caller := target.Unary(b.conns[p], r.Unary)
	return compare.Contestant{Name: name, CPU: cpu(p), Caller: func(int) (load.Caller, error) { return caller, nil }}
}

// open is a contestant that answers streams, all of them on one connection; end
// ends them.
func (b *bench) open(ctx context.Context, name string, p *target.Process, r *target.Request) (_ compare.Contestant, end func()) {
	const window = 8 // that of the server unless it is configured
	var streams []*target.Stream
	return compare.Contestant{Name: name, CPU: cpu(p), Caller: func(int) (load.Caller, error) {
			s, err := target.OpenStream(ctx, b.conns[p], r.Open, r.Batch, window)
			if err == nil {
				streams = append(streams, s)
			}
			return s, err
		}}, func() {
			for _, s := range streams {
				s.Close()
			}
		}
}

func cpu(p *target.Process) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		u, err := p.Usage()
		return u.CPU, err
	}
}

// memory is a file system in memory, where there is one: a log there costs what
// the log costs, without the disk.
const memory = "/dev/shm"

const (
	nameInMemory  = "Sallyport, log in memory"
	nameBare      = "bare"
	nameSallyport = "Sallyport"
)

// same fails unless both servers answer the request alike: only then is the work
// the same.
func (b *bench) same(ctx context.Context, r *target.Request) error {
	request := new(inferencev1.PredictRequest)
	if err := proto.Unmarshal(r.Unary, request); err != nil {
		return err
	}
	var answers []*inferencev1.PredictResponse
	for _, p := range []*target.Process{b.bare, b.sallyport} {
		answer, err := inferencev1.NewPredictionServiceClient(b.conns[p]).Predict(ctx, request)
		if err != nil {
			return err
		}
		answers = append(answers, answer)
	}
	if !proto.Equal(answers[0], answers[1]) {
		return fmt.Errorf("%s: the servers answer differently", r.Model)
	}
	return nil
}
