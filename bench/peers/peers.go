// Package peers measures Sallyport beside what people serve models with today:
// FastAPI, Flask, MLServer, and Envoy before a gRPC server. Each is set up as its
// own documentation advises and does the same job: it knows who calls, lets the
// caller call some models only, limits, checks what comes in and logs.
package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/peers/contract"
	"github.com/sallyport/sallyport/bench/target"
)

// Settings say how long everything is measured.
type Settings struct {
	// Rounds is how many slices each peer has in a case.
	Rounds int
	// Warmup and Slice are how long one is; Batch is a slice of batches, of which
	// slow peers answer few.
	Warmup, Slice, Batch time.Duration
}

// Full takes some four minutes, Short one, half of it to start everything.
var (
	Full   = Settings{Rounds: 3, Warmup: 300 * time.Millisecond, Slice: 1000 * time.Millisecond, Batch: 1500 * time.Millisecond}
	Short  = Settings{Rounds: 2, Warmup: 50 * time.Millisecond, Slice: 200 * time.Millisecond, Batch: 400 * time.Millisecond}
	Moment = Settings{Rounds: 1, Warmup: 10 * time.Millisecond, Slice: 50 * time.Millisecond, Batch: 100 * time.Millisecond}
)

// Callers is how many callers the site must have.
const Callers = 2

// Case is one comparison; the first that was measured is Sallyport.
type Case struct {
	Name string
	// Rows is how many a call has, Callers how many calls are open at once.
	Rows, Callers int
	Measured      []compare.Measured
}

// Memory is the memory of a peer, all processes together: once it serves, after
// the calls, after the batches.
type Memory struct {
	Name                 string
	Idle, Unary, Batches uint64
}

// Results are all of them.
type Results struct {
	Settings     Settings
	Cores        int
	Unary, Batch []Case
	Memory       []Memory
	// Versions are those of each peer's packages.
	Versions map[string]string
}

// run is one Run.
type run struct {
	Settings
	cfg       Config
	site      *target.Site
	sallyport *target.Process
	peers     []*peer // Sallyport first
	logs      map[string]string
	progress  io.Writer
}

// Run measures in a site that has Callers. What goes on is told on progress. It is
// an error if a peer does not answer as Sallyport does, answers whom or what it
// should refuse, or fails in a call.
func Run(ctx context.Context, site *target.Site, cfg Config, set Settings, progress io.Writer) (_ *Results, err error) {
	for _, path := range []*string{&cfg.Source, &cfg.Environments} {
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	r := &run{Settings: set, cfg: cfg, site: site, progress: progress, logs: map[string]string{}}
	results := &Results{Settings: set, Cores: cfg.Cores, Versions: map[string]string{}}
	for name := range folders {
		if results.Versions[name], err = cfg.versions(name); err != nil {
			return nil, err
		}
	}
	err = func() error {
		if err := r.start(ctx); err != nil {
			return err
		}
		if err := r.check(ctx); err != nil {
			return err
		}
		return r.measure(ctx, results)
	}()
	for _, p := range r.peers {
		err = errors.Join(err, p.stop())
	}
	if err != nil {
		return nil, err
	}
	return results, r.logged()
}

// start starts the servers, one after the other.
func (r *run) start(ctx context.Context) error {
	files := filepath.Join(r.site.Dir, "files")
	if err := identityFiles(ctx, r.site, files); err != nil {
		return err
	}
	models := map[string]contract.Model{}
	for name, version := range map[string]int64{first: 1, second: 2} {
		m, err := contract.Read(r.site.Models, name, version)
		if err != nil {
			return err
		}
		models[name] = m
	}
	configs := map[string]string{}
	for name, folder := range folders {
		dir := r.dir(name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		configs[name], r.logs[name] = filepath.Join(dir, "peer.json"), filepath.Join(dir, "access.log")
		if err := writeConfig(configs[name], r.logs[name], models); err != nil {
			return fmt.Errorf("%s: %w", folder, err)
		}
	}
	for _, start := range []func() (*peer, error){
		func() (p *peer, err error) { p, r.sallyport, err = startSallyport(ctx, r.site); return p, err },
		func() (*peer, error) { return startFastAPI(ctx, r.cfg, r.site, files, configs[nameFastAPI]) },
		func() (*peer, error) { return startFlask(ctx, r.cfg, r.site, files, configs[nameFlask]) },
		func() (*peer, error) {
			return startMLServer(ctx, r.cfg, models, r.dir(nameMLServer), configs[nameMLServer])
		},
		func() (*peer, error) {
			return startEnvoy(ctx, r.cfg, r.site, models, r.dir(nameEnvoy), files)
		},
	} {
		p, err := start()
		if p != nil {
			r.peers = append(r.peers, p)
		}
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(r.progress, "%s serves\n", p.name)
	}
	return nil
}

func (r *run) dir(name string) string { return filepath.Join(r.site.Dir, folders[name]) }

// measure runs the cases.
func (r *run) measure(ctx context.Context, results *Results) error {
	for _, p := range r.peers {
		u, err := p.usage()
		if err != nil {
			return err
		}
		results.Memory = append(results.Memory, Memory{Name: p.name, Idle: u.RSS})
	}
	for _, rows := range []int{1, 64} {
		for _, callers := range []int{1, 16, 64} {
			c, err := r.unary(ctx, Case{Name: first, Rows: rows, Callers: callers}, r.Slice)
			if err != nil {
				return err
			}
			results.Unary = append(results.Unary, c)
		}
	}
	for i, p := range r.peers {
		u, err := p.usage()
		if err != nil {
			return err
		}
		results.Memory[i].Unary = u.RSS
	}
	for _, model := range []string{first, second} {
		// The most rows that the manifests allow; twice as many as cores, so that one
		// is run while the other is on its way.
		c, err := r.batches(ctx, Case{Name: model, Rows: 4096, Callers: 2 * r.cfg.Cores})
		if err != nil {
			return err
		}
		results.Batch = append(results.Batch, c)
	}
	for i, p := range r.peers {
		u, err := p.usage()
		if err != nil {
			return err
		}
		results.Memory[i].Batches = u.RSS
	}
	return nil
}

// contestants are the peers, asked a request.
func (r *run) contestants(q *target.Request) ([]compare.Contestant, error) {
	var all []compare.Contestant
	for _, p := range r.peers {
		a, err := p.ask(question{who: bench, model: q.Model, features: q.Inputs["features"]})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		all = append(all, compare.Contestant{
			Name: p.name, CPU: p.cpu, Caller: func(i int) (load.Caller, error) { return a.Caller(i), nil },
		})
	}
	return all, nil
}

func (r *run) unary(ctx context.Context, c Case, slice time.Duration, more ...compare.Contestant) (Case, error) {
	request, err := target.NewRequest(c.Name, c.Rows)
	if err != nil {
		return c, err
	}
	all, err := r.contestants(request)
	if err != nil {
		return c, err
	}
	c.Measured, err = compare.Run(ctx, compare.Config{
		Rounds: r.Rounds, Callers: c.Callers, Warmup: r.Warmup, Duration: slice,
	}, append(all, more...)...)
	if err != nil {
		return c, fmt.Errorf("%s, %d rows, %d at once: %w", c.Name, c.Rows, c.Callers, err)
	}
	var line strings.Builder
	_, _ = fmt.Fprintf(&line, "%s, %4d rows, %2d at once: Sallyport is", c.Name, c.Rows, c.Callers)
	for i := range c.Measured[1:] {
		m := &c.Measured[i+1]
		_, _ = fmt.Fprintf(&line, " %.2f of %s", compare.Ratio(m, &c.Measured[0], compare.Throughput).Median, m.Name)
	}
	_, _ = fmt.Fprintln(r.progress, line.String())
	return c, nil
}

// nameStream is Sallyport's stream, beside its calls.
const nameStream = nameSallyport + ", streams"

// batches compares large calls, and Sallyport's streams with them.
func (r *run) batches(ctx context.Context, c Case) (_ Case, err error) {
	const window = 2 // batches of a stream on their way: as many as of callers that call
	request, err := target.NewRequest(c.Name, c.Rows)
	if err != nil {
		return c, err
	}
	conn, err := r.site.Dial(r.sallyport, 0)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var streams []*target.Stream
	defer func() {
		for _, s := range streams {
			s.Close()
		}
	}()
	return r.unary(ctx, c, r.Batch, compare.Contestant{
		Name: nameStream, CPU: r.peers[0].cpu,
		Caller: func(int) (load.Caller, error) {
			s, err := target.OpenStream(ctx, conn, request.Open, request.Batch, window)
			if err == nil {
				streams = append(streams, s)
			}
			return s, err
		},
	})
}

// logged fails unless every peer has logged its calls; Sallyport does not answer
// otherwise.
func (r *run) logged() error {
	for name, path := range r.logs {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("%s has no log: %w", name, err)
		}
		if info.Size() == 0 {
			return fmt.Errorf("%s has logged nothing", name)
		}
	}
	return nil
}
