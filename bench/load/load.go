// Package load is a load generator: callers that make calls as fast as they are
// answered (a closed loop), or at times that are fixed beforehand (an open loop).
// In an open loop a call's latency counts from the time it was meant to start:
// what waits because the server is slow is not left out.
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"
)

// Caller makes one call at a time.
type Caller interface {
	// Call makes a call and waits for its answer. The error is that it was not
	// answered well.
	Call(ctx context.Context) error
}

// Timer is a Caller whose calls overlap: what Call waited is then not how long one
// took.
type Timer interface {
	// Took is how long the call took whose answer the last Call returned.
	Took() time.Duration
}

// CallerFunc is a function as a Caller.
type CallerFunc func(ctx context.Context) error

// Call calls the function.
func (f CallerFunc) Call(ctx context.Context) error { return f(ctx) }

// Config says how much load.
type Config struct {
	// Callers is how many calls are open at once: in a closed loop always, in an
	// open one at the most. An open loop whose callers are all busy starts calls
	// late, which Result.Late shows.
	Callers int
	// Rate is how many calls a second are meant to start, evenly; 0 for a closed
	// loop.
	Rate float64
	// Warmup is how long calls are made before they count.
	Warmup time.Duration
	// Duration is how long calls count.
	Duration time.Duration
	// Kind names the kind of an error; its gRPC code if nil.
	Kind func(error) string
	// Begin and End are called when calls begin to count and when they no longer do,
	// while they go on: to read what a server has used till then. Both optional.
	Begin, End func()
}

func (c *Config) validate() error {
	var errs []error
	if c.Callers < 1 {
		errs = append(errs, errors.New("at least one caller is needed"))
	}
	if c.Rate < 0 {
		errs = append(errs, fmt.Errorf("the rate %g is negative", c.Rate))
	}
	if c.Warmup < 0 || c.Duration <= 0 {
		errs = append(errs, fmt.Errorf("warm-up %v and duration %v: a time to measure is needed", c.Warmup, c.Duration))
	}
	return errors.Join(errs...)
}

// run is one Run.
type run struct {
	Config
	shards []shard
	// from and to bound what counts.
	begin, from, to time.Time
	next            atomic.Int64 // of the schedule
}

// Run makes calls and returns what came of those that count: in a closed loop
// those answered between the end of the warm-up and the end of the duration, in
// an open loop those meant to start in that time, however long they take. When
// it returns, no call of its own is open.
//
// newCaller makes caller i before the first call is made; it may return the same
// ones for several runs, and it is up to its owner to close them. The error is
// that of newCaller, or that ctx ended.
func Run(ctx context.Context, cfg Config, newCaller func(i int) (Caller, error)) (*Result, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if cfg.Kind == nil {
		cfg.Kind = func(err error) string { return status.Code(err).String() }
	}
	callers := make([]Caller, cfg.Callers)
	for i := range callers {
		c, err := newCaller(i)
		if err != nil {
			return nil, fmt.Errorf("load: caller %d: %w", i, err)
		}
		callers[i] = c
	}
	r := &run{Config: cfg, shards: newShards(cfg.Callers), begin: time.Now()}
	r.from = r.begin.Add(cfg.Warmup)
	r.to = r.from.Add(cfg.Duration)
	work := r.closed
	if cfg.Rate > 0 {
		work = r.open
	}
	var working sync.WaitGroup
	for i, c := range callers {
		working.Go(func() { work(ctx, c, &r.shards[i%len(r.shards)]) })
	}
	working.Go(func() { r.tell(ctx) })
	working.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return merge(r.shards, cfg.Duration), nil
}

// tell calls Begin and End at their times.
func (r *run) tell(ctx context.Context) {
	for _, mark := range []struct {
		at   time.Time
		call func()
	}{{r.from, r.Begin}, {r.to, r.End}} {
		if mark.call == nil {
			continue
		}
		select {
		case <-time.After(time.Until(mark.at)):
			mark.call()
		case <-ctx.Done():
			return
		}
	}
}

// closed makes one call after the other.
func (r *run) closed(ctx context.Context, c Caller, s *shard) {
	timer, timed := c.(Timer)
	for start := r.begin; start.Before(r.to) && ctx.Err() == nil; {
		err := c.Call(ctx)
		end := time.Now()
		if !end.Before(r.from) && end.Before(r.to) {
			took := end.Sub(start)
			if timed {
				took = timer.Took()
			}
			s.add(took, 0, err, r.Kind)
		}
		start = end
	}
}

// open makes the next call of the schedule that nobody has taken.
func (r *run) open(ctx context.Context, c Caller, s *shard) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		n := r.next.Add(1) - 1
		meant := r.begin.Add(time.Duration(float64(n) / r.Rate * float64(time.Second)))
		if !meant.Before(r.to) {
			return
		}
		if wait := time.Until(meant); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		late := time.Since(meant)
		err := c.Call(ctx)
		end := time.Now()
		if !meant.Before(r.from) {
			s.add(end.Sub(meant), late, err, r.Kind)
		}
	}
}
