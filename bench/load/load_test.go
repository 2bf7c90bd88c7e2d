package load_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/bench/load"
)

// takes is a caller whose calls take a time.
func takes(d time.Duration) func(int) (load.Caller, error) {
	return func(int) (load.Caller, error) {
		return load.CallerFunc(func(ctx context.Context) error {
			time.Sleep(d)
			return nil
		}), nil
	}
}

func run(t *testing.T, cfg load.Config, newCaller func(int) (load.Caller, error)) *load.Result {
	t.Helper()
	r, err := load.Run(t.Context(), cfg, newCaller)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// near is within the 1 % that a histogram tells, and a timer's grain.
func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want-want/50-time.Microsecond || got > want+want/50+time.Microsecond {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, load.Config{Callers: 4, Warmup: time.Second, Duration: 10 * time.Second}, takes(10*time.Millisecond))
		if got := r.Rate(); got < 399 || got > 401 {
			t.Errorf("rate %g, want 400: 4 callers of 10 ms each", got)
		}
		near(t, "p50", r.Latency.Quantile(0.5), 10*time.Millisecond)
		near(t, "p99.9", r.Latency.Quantile(0.999), 10*time.Millisecond)
	})
}

// A server that stands still for a second keeps all calls waiting that were
// meant to start then, not only those that did.
func TestOpenLoopOmitsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		stalls := func(int) (load.Caller, error) {
			return load.CallerFunc(func(context.Context) error {
				if at := time.Since(begin); at >= 5*time.Second && at < 6*time.Second {
					time.Sleep(6*time.Second - at)
				}
				time.Sleep(time.Millisecond)
				return nil
			}), nil
		}
		// One caller: all but one of the calls of that second start late.
		r := run(t, load.Config{Callers: 1, Rate: 100, Duration: 10 * time.Second}, stalls)
		if r.Calls != 1000 {
			t.Errorf("%d calls, want 1000", r.Calls)
		}
		if got := r.Latency.Quantile(0.9); got < 50*time.Millisecond {
			t.Errorf("p90 %v: the calls that could not start were left out", got)
		}
		if got := r.Latency.Max(); got < 990*time.Millisecond {
			t.Errorf("the longest took %v, want a second", got)
		}
		if r.Late.Max() < 900*time.Millisecond {
			t.Errorf("started %v late at the most, and all callers were busy", r.Late.Max())
		}
		// Enough callers: each starts in time and waits in the server.
		r = run(t, load.Config{Callers: 200, Rate: 100, Duration: 10 * time.Second}, takes(time.Second))
		near(t, "p50", r.Latency.Quantile(0.5), time.Second)
		if r.Late.Max() > time.Millisecond {
			t.Errorf("started %v late with callers to spare", r.Late.Max())
		}
	})
}

func TestErrorsByKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		every := func(int) (load.Caller, error) {
			return load.CallerFunc(func(context.Context) error {
				if n.Add(1)%4 == 0 {
					time.Sleep(time.Millisecond)
					return status.Error(codes.ResourceExhausted, "full")
				}
				time.Sleep(10 * time.Millisecond)
				return nil
			}), nil
		}
		r := run(t, load.Config{Callers: 10, Rate: 100, Duration: 10 * time.Second}, every)
		if r.Calls != 750 || r.Errors["ResourceExhausted"] != 250 || r.AllErrors() != 250 {
			t.Errorf("%d calls and errors %v, want 750 and 250 ResourceExhausted", r.Calls, r.Errors)
		}
		near(t, "p99 of the good", r.Latency.Quantile(0.99), 10*time.Millisecond)
		near(t, "p99 of the others", r.Failed.Quantile(0.99), time.Millisecond)
	})
}

func TestRefused(t *testing.T) {
	for name, cfg := range map[string]load.Config{
		"no callers":    {Duration: time.Second},
		"no duration":   {Callers: 1},
		"negative rate": {Callers: 1, Rate: -1, Duration: time.Second},
	} {
		if _, err := load.Run(t.Context(), cfg, takes(0)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := load.Run(ctx, load.Config{Callers: 1, Duration: time.Hour}, takes(0)); err == nil {
		t.Error("a run whose context has ended has no error")
	}
}
