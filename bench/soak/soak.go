// Package soak works a server for long, near what it can do, and sees whether what
// it takes grows.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/target"
	"github.com/sallyport/sallyport/bench/watch"
)

// Settings say how long and how hard.
type Settings struct {
	// Share is the part of the capacity, Duration how long.
	Share    float64
	Duration time.Duration
	// Probe is how long capacity is measured.
	Probe time.Duration
}

// Full is the goal of issue 5; Short sees that everything works; Moment is for tests.
var (
	Moment = Settings{Share: 0.5, Duration: 500 * time.Millisecond, Probe: 200 * time.Millisecond}
	Full   = Settings{Share: 0.8, Duration: 15 * time.Minute, Probe: 10 * time.Second}
	Short  = Settings{Share: 0.8, Duration: 4 * time.Second, Probe: time.Second}
)

// Results are what came of it.
type Results struct {
	Settings
	Capacity float64
	Load     *load.Result
	Samples  watch.Samples
}

// batches is how many a stream has before it ends.
const batches = 16

// Run runs it: one part in 16 of the callers opens a stream for some batches and
// one a connection for one call, again and again; the others make calls of one
// and of 64 rows on connections that stay.
func Run(ctx context.Context, site *target.Site, set Settings, progress io.Writer) (_ *Results, err error) {
	p, err := site.StartSallyport(ctx, target.Sallyport{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	conn, hangUp, err := site.Spread(p, 2)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hangUp()) }()
	var requests []*target.Request
	for _, r := range []struct {
		model string
		rows  int
	}{{target.Digits, 1}, {target.BreastCancer, 64}, {target.TicketRouting, 1}, {target.Digits, 64}} {
		request, err := target.NewRequest(r.model, r.rows)
		if err != nil {
			return nil, err
		}
		requests = append(requests, request)
	}
	caller := func(i int) load.Caller {
		request := requests[i%len(requests)]
		switch i % 16 {
		case 0:
			return load.CallerFunc(func(ctx context.Context) error { return stream(ctx, conn, i, request) })
		case 1:
			return load.CallerFunc(func(ctx context.Context) error { return connect(ctx, site, p, request) })
		}
		return target.Unary(conn(i), request.Unary)
	}
	r := &Results{Settings: set}
	const callers = 64
	if r.Capacity, err = target.Capacity(ctx, caller, callers, set.Probe/4, set.Probe); err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(progress, "capacity %.0f calls/s; %.0f %% of it for %v\n", r.Capacity, 100*set.Share, set.Duration)
	w := watch.Start(ctx, p, max(set.Duration/300, 100*time.Millisecond))
	r.Load, err = load.Run(ctx, load.Config{
		Callers: callers, Rate: set.Share * r.Capacity, Duration: set.Duration, Kind: target.Reason,
	}, func(i int) (load.Caller, error) { return caller(i), nil })
	samples, sampling := w.Stop()
	r.Samples = samples
	return r, errors.Join(err, sampling)
}

// stream opens a stream, takes some results and ends it.
func stream(ctx context.Context, conn func(int) *grpc.ClientConn, i int, r *target.Request) error {
	s, err := target.OpenStream(ctx, conn(i), r.Open, r.Batch, 4)
	if err != nil {
		return err
	}
	defer s.Close()
	for range batches {
		if err := s.Call(ctx); err != nil {
			return err
		}
	}
	return nil
}

// connect makes one call on a connection of its own.
func connect(ctx context.Context, site *target.Site, p *target.Process, r *target.Request) (err error) {
	conn, err := site.Dial(p, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return target.Unary(conn, r.Unary).Call(ctx)
}
