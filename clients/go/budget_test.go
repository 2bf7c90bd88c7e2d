package sallyport_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// scripted starts servers of the scripts behind mTLS and is a client of them.
func scripted(t *testing.T, cfg sallyport.Config, scripts ...*script) *sallyport.Client {
	t.Helper()
	w := newWorld(t, time.Hour)
	for _, s := range scripts {
		creds, source := w.credentials(t, "server")
		server := grpc.NewServer(grpc.Creds(creds))
		inferencev1.RegisterPredictionServiceServer(server, s)
		tcp := listen(t, "127.0.0.1:0")
		cfg.Servers = append(cfg.Servers, tcp.Addr().String())
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(tcp) })
		t.Cleanup(func() {
			server.Stop()
			serving.Wait()
			_ = source.Close()
		})
	}
	return w.as(t, "clinic", cfg)
}

func asksFor(wait time.Duration) error {
	return refusal(codes.ResourceExhausted, "OVERLOADED", &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
}

// When everything is overloaded, attempts are at most 1+ratio times the calls. The
// calls that are not made again end at once, as the server refused them, and say
// why.
func TestBudgetBoundsOverload(t *testing.T) {
	const calls, ratio = 1000, 0.1
	server := &script{predict: func(n int) error {
		if n <= calls {
			return nil
		}
		return refusal(codes.ResourceExhausted, "OVERLOADED")
	}, rpc: func(int, *inferencev1.StreamOpen, serverStream) error {
		return refusal(codes.ResourceExhausted, "OVERLOADED")
	}}
	c := scripted(t, sallyport.Config{
		Retry:  sallyport.Retry{Attempts: 10, Backoff: time.Millisecond, MaxBackoff: time.Millisecond},
		Budget: sallyport.Budget{Ratio: ratio, PerSecond: -1},
	}, server)
	var exhausted atomic.Int64
	many := func(check func(error)) {
		var calling sync.WaitGroup
		for range 10 {
			calling.Go(func() {
				for range calls / 10 {
					_, err := c.Predict(t.Context(), &inferencev1.PredictRequest{})
					check(err)
				}
			})
		}
		calling.Wait()
	}
	many(func(err error) {
		if err != nil {
			t.Errorf("call: %v", err)
		}
	})
	many(func(err error) {
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("ended with %v", err)
		}
		if errors.Is(err, sallyport.ErrRetryBudget) {
			exhausted.Add(1)
		}
	})
	attempts := server.calls - calls
	t.Logf("%d attempts of %d calls, %d ended by the budget", attempts, calls, exhausted.Load())
	if attempts <= calls || float64(attempts) > (1+ratio)*calls {
		t.Errorf("%d attempts of %d calls", attempts, calls)
	}
	if exhausted.Load() < calls*8/10 {
		t.Errorf("the budget ended %d calls", exhausted.Load())
	}
	if _, err := c.Stream(t.Context(), sallyport.StreamConfig{}); !errors.Is(err, sallyport.ErrRetryBudget) || server.rpcs != 1 {
		t.Errorf("a stream, opened %d times: %v", server.rpcs, err)
	}
}

// A stream that is open goes on without a budget, at its own pace.
func TestStreamGoesOnWithoutBudget(t *testing.T) {
	server := &script{rpc: func(n int, _ *inferencev1.StreamOpen, s serverStream) error {
		switch n {
		case 1:
			return errors.Join(accept(s), echoSome(s, 3), refusal(codes.Unavailable, "DRAINING"))
		case 2, 3:
			return refusal(codes.Unavailable, "DRAINING")
		}
		return errors.Join(accept(s), echo(s))
	}}
	c := scripted(t, sallyport.Config{Budget: sallyport.Budget{Ratio: -1, PerSecond: -1}}, server)
	s, err := c.Stream(t.Context(), sallyport.StreamConfig{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := exchange(s, batches); !errors.Is(err, io.EOF) || len(got) != batches {
		t.Errorf("results of %v: %v", got, err)
	}
}

// What a budget has given never exceeds what was earned, whatever the order, and
// it gives what it should to those who come evenly.
func TestBudget(t *testing.T) {
	const ratio, perSecond = 0.25, 8
	for range 200 {
		now := time.Now()
		earn, spend := sallyport.NewBudget(sallyport.Budget{Ratio: ratio, PerSecond: perSecond}, func() time.Time { return now })
		begin, earned, spent := now, 0.0, 0.0
		for range 2000 {
			now = now.Add(time.Duration(rand.IntN(int(40 * time.Millisecond))))
			if rand.IntN(2) == 0 {
				earn()
				earned += ratio
			} else if spend() {
				spent++
			}
			if most := perSecond*(10+now.Sub(begin).Seconds()) + earned; spent > most+1e-6 {
				t.Fatalf("%v retries of %v", spent, most)
			}
		}
		if least := perSecond * now.Sub(begin).Seconds(); spent < least*0.9 {
			t.Fatalf("%v retries in %v", spent, now.Sub(begin))
		}
	}
}

// An hour of successes is no licence for a storm after it.
func TestBudgetFades(t *testing.T) {
	now := time.Now()
	earn, spend := sallyport.NewBudget(sallyport.Budget{Ratio: 0.2, PerSecond: 10}, func() time.Time { return now })
	left := func() (n int) {
		for spend() {
			n++
		}
		return n
	}
	for range 3600 * 100 {
		now = now.Add(10 * time.Millisecond)
		earn()
	}
	if n := left(); n < 290 || n > 300 { // ten seconds of 20 and of 10
		t.Errorf("%d retries after 100 calls a second", n)
	}
	for range 60 * 100 {
		now = now.Add(10 * time.Millisecond)
		earn()
	}
	now = now.Add(time.Minute)
	if n := left(); n < 99 || n > 110 {
		t.Errorf("%d retries after a minute of silence", n)
	}
}

// A retry waits as long as the server asks, but never beyond the caller's deadline
// or its own bound: then the call ends at once with the server's error. What is
// over quota is not sent again.
func TestRetryWaits(t *testing.T) {
	for name, tt := range map[string]struct {
		err      error // of all attempts but those after the second
		deadline time.Duration
		attempts int
		least    time.Duration // that it takes
		most     time.Duration
	}{
		"as long as it is asked":     {asksFor(300 * time.Millisecond), patience, 3, 600 * time.Millisecond, patience},
		"not beyond the deadline":    {asksFor(2 * patience), patience, 1, 0, patience / 2},
		"not an hour":                {asksFor(time.Hour), 2 * time.Hour, 1, 0, patience},
		"nor for a quota":            {refusal(codes.ResourceExhausted, "QUOTA_ROWS", &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)}), patience, 1, 0, patience},
		"unavailable without asking": {refusal(codes.Unavailable, "MODEL_NOT_READY"), patience, 3, 200 * time.Millisecond, patience},
	} {
		t.Run(name, func(t *testing.T) {
			server := &script{predict: func(n int) error {
				if n > 2 {
					return nil
				}
				return tt.err
			}}
			c := scripted(t, sallyport.Config{Retry: sallyport.Retry{MaxBackoff: 3 * patience}}, server)
			ctx, cancel := context.WithTimeout(t.Context(), tt.deadline)
			defer cancel()
			began := time.Now()
			_, err := c.Predict(ctx, &inferencev1.PredictRequest{})
			if want := status.Code(tt.err); tt.attempts == 1 && status.Code(err) != want || tt.attempts > 1 && err != nil {
				t.Errorf("ended with %v", err)
			}
			if server.calls != tt.attempts {
				t.Errorf("%d attempts", server.calls)
			}
			if took := time.Since(began); took < tt.least || took > tt.most {
				t.Errorf("took %v", took)
			}
		})
	}
}
