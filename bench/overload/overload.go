// Package overload brings a server several times the calls that it can answer and
// sees what becomes of those that it takes, of those that it refuses, and of the
// record of both.
package overload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/process"
	"github.com/sallyport/sallyport/bench/target"
	"github.com/sallyport/sallyport/bench/watch"
)

// Settings say how much and how long.
type Settings struct {
	// Factor is how many times of its capacity the server is brought, for Duration.
	Factor   float64
	Duration time.Duration
	// Probe is how long capacity, and the latency without load, are measured.
	Probe time.Duration
}

// Full is the goal of issue 5; Short sees that everything works; Moment is for tests.
var (
	Moment = Settings{Factor: 5, Duration: 300 * time.Millisecond, Probe: 400 * time.Millisecond}
	Full   = Settings{Factor: 5, Duration: time.Minute, Probe: 10 * time.Second}
	Short  = Settings{Factor: 5, Duration: 4 * time.Second, Probe: 3 * time.Second}
)

// connections is how many each caller has: each takes a hundred calls at once.
const connections = 8

// Results are what came of it.
type Results struct {
	Settings
	Callers int
	// Capacity is calls a second with all cores busy.
	Capacity float64
	// Light is at a fifth of the capacity, Unloaded at half of it, where no call waits for
	// another unless the machine is held up; Overloaded at Factor times of it.
	Light, Unloaded, Overloaded *load.Result
	Recorded                    *target.Recorded
	Samples                     watch.Samples
	// ServerCores and ClientCores are how many of them each kept busy under overload.
	ServerCores, ClientCores float64
}

// Run runs it at a site that has the recurrent model.
func Run(ctx context.Context, site *target.Site, callers int, set Settings, progress io.Writer) (_ *Results, err error) {
	request, err := target.RecurrentRequest()
	if err != nil {
		return nil, err
	}
	p, err := site.StartSallyport(ctx, target.Sallyport{})
	if err != nil {
		return nil, err
	}
	running := true
	stop := func() error {
		if !running {
			return nil
		}
		running = false
		return p.Stop()
	}
	defer func() { err = errors.Join(err, stop()) }()
	conn, hangUp, err := site.Spread(p, connections)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hangUp()) }()

	r := &Results{Settings: set, Callers: callers}
	var answers target.Answers
	caller := func(i int) load.Caller { return answers.Caller(conn(i), request.Unary) }
	newCaller := func(i int) (load.Caller, error) { return caller(i), nil }
	// One more than turns: whenever a run ends another waits, and no queue stands, which
	// the server would refuse.
	busy := runtime.GOMAXPROCS(0) + 1
	if r.Capacity, err = target.Capacity(ctx, caller, busy, set.Probe/4, set.Probe); err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(progress, "capacity %.0f calls/s\n", r.Capacity)
	open := load.Config{Callers: 4 * busy, Rate: r.Capacity / 5, Duration: set.Probe, Kind: target.Reason}
	if r.Light, err = load.Run(ctx, open, newCaller); err != nil {
		return nil, err
	}
	open.Rate = r.Capacity / 2
	if r.Unloaded, err = load.Run(ctx, open, newCaller); err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(progress, "at a fifth of it: p99 %v; at half: p99 %v\n", r.Light.Latency.Quantile(0.99), r.Unloaded.Latency.Quantile(0.99))

	w := watch.Start(ctx, p, max(set.Duration/120, 100*time.Millisecond))
	open.Callers, open.Rate, open.Duration = callers*connections*100, set.Factor*r.Capacity, set.Duration
	open.Begin, open.End = r.cores(p)
	begin := time.Now()
	r.Overloaded, err = load.Run(ctx, open, newCaller)
	samples, sampling := w.Stop()
	r.Samples = samples
	if err = errors.Join(err, sampling); err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(progress, "at %g times: %d answered, p99 %v; %v refused, p99 %v\n", set.Factor,
		r.Overloaded.Calls, r.Overloaded.Latency.Quantile(0.99), r.Overloaded.Errors, r.Overloaded.Failed.Quantile(0.99))
	if err := stop(); err != nil {
		return nil, err
	}
	r.Recorded, err = answers.Compare(ctx, site, p, begin)
	return r, err
}

// cores returns what reads the processor time at the beginning and at the end of
// the load.
func (r *Results) cores(p *target.Process) (begin, end func()) {
	var start time.Time
	var server, client time.Duration
	read := func() (server, client time.Duration) {
		// A figure to explain others by: if it cannot be read it is 0.
		s, _ := p.Usage()
		c, _ := process.Self()
		return s.CPU, c.CPU
	}
	begin = func() {
		start = time.Now()
		server, client = read()
	}
	return begin, func() {
		s, c := read()
		took := time.Since(start).Seconds()
		r.ServerCores, r.ClientCores = (s-server).Seconds()/took, (c-client).Seconds()/took
	}
}
