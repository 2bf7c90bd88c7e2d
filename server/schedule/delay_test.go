package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/server/schedule"
)

// bounded is a crowd whose calls wait for no more than delay.
func bounded(t *testing.T, turns int, delay time.Duration) *crowd {
	t.Helper()
	c := newCrowd(t, turns, 10_000)
	var err error
	if c.queue, err = schedule.New(schedule.Config{Turns: turns, Waiters: 10_000, MaxDelay: delay}); err != nil {
		t.Fatal(err)
	}
	return c
}

// A burst is served to its end, as long as that is within the bound, although in the
// middle of it more waits than a queue that stands may hold.
func TestBurstsAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := bounded(t, 2, 100*time.Millisecond)
		for range 20 {
			for range 30 {
				c.come(t.Context(), "a", 5*time.Millisecond)
			}
			time.Sleep(110 * time.Millisecond)
		}
		if n := len(c.full); n > 0 {
			t.Errorf("%d of 600 calls were refused", n)
		}
	})
}

// With five times as much as can be run, from callers of equal and of unequal rates,
// what is let in waits for no longer than a run or two, the turns are never idle for
// long, and the refused are told so soon.
func TestOverloadIsRefused(t *testing.T) {
	const run, turns = 5 * time.Millisecond, 2
	for name, rates := range map[string][]int{"one caller": {10}, "equal": {2, 2, 2, 2, 2}, "one floods": {1, 1, 8}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := bounded(t, turns, 100*time.Millisecond)
				var mu sync.Mutex // guards what follows
				var waits, refusals []time.Duration
				had := make([]int, len(rates))
				start := time.Now()
				for i := range 1000 { // of run each: 5 s
					for caller, n := range rates {
						for range n {
							c.calls.Go(func() {
								began := time.Now()
								turn, err := c.queue.Acquire(t.Context(), schedule.Request{Caller: fmt.Sprint(caller)})
								took := time.Since(began)
								mu.Lock()
								switch {
								case err == nil:
									had[caller]++
									if i > 100 {
										waits = append(waits, took)
									}
								case i > 100:
									refusals = append(refusals, took)
								}
								mu.Unlock()
								if err != nil {
									return
								}
								time.Sleep(run)
								turn.Release()
							})
							synctest.Wait()
							time.Sleep(run / 10)
						}
					}
				}
				length := time.Since(start)
				c.calls.Wait()
				slices.Sort(waits)
				slices.Sort(refusals)
				if len(waits) == 0 || len(refusals) == 0 {
					t.Fatalf("%d waited, %d were refused", len(waits), len(refusals))
				}
				for what, took := range map[string][]time.Duration{"waited for": waits, "refused after": refusals} {
					if p99 := took[len(took)*99/100]; p99 > 2*run {
						t.Errorf("1%% %s more than %v", what, p99)
					}
				}
				total := 0
				for _, n := range had {
					total += n
				}
				if could := int(length/run) * turns; total < could*9/10 {
					t.Errorf("%d runs in %v, there could have been %d", total, length, could)
				}
				t.Logf("%v runs, waited up to %v; %d refused", had, waits[len(waits)-1], len(refusals))
			})
		})
	}
}

// What waits for longer than a queue that stands lets in is refused as soon as it is
// found to stand: so from then on nobody is answered late.
func TestStandingQueueIsShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const run, most = 5 * time.Millisecond, 100 * time.Millisecond
		c := bounded(t, 1, most)
		var mu sync.Mutex // guards late
		late := 0
		begin := time.Now()
		for range 1000 {
			c.calls.Go(func() {
				came := time.Now()
				turn, err := c.queue.Acquire(t.Context(), schedule.Request{Caller: "a"})
				if err != nil {
					return
				}
				if time.Since(begin) > most+2*run && time.Since(came) > 2*run {
					mu.Lock()
					late++
					mu.Unlock()
				}
				time.Sleep(run)
				turn.Release()
			})
			time.Sleep(run / 5)
		}
		c.calls.Wait()
		if late > 0 {
			t.Errorf("%d turns came late", late)
		}
	})
}

// In a queue that stands a call is given up when turns take longer than they did.
func TestWaitInStandingQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const run = 5 * time.Millisecond
		c := bounded(t, 1, 100*time.Millisecond)
		for i := range 600 {
			took := run
			if i >= 500 {
				took = time.Second
			}
			c.come(t.Context(), "a", took)
			time.Sleep(run / 5)
		}
		// A turn of a second goes on.
		for range 20 {
			came := time.Now()
			if _, err := c.queue.Acquire(t.Context(), schedule.Request{Caller: "a"}); !errors.Is(err, schedule.ErrFull) {
				t.Fatalf("got %v, want %v", err, schedule.ErrFull)
			}
			if took := time.Since(came); took > 2*run {
				t.Fatalf("refused after %v", took)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// When it is over, bursts are served again.
func TestOverloadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := bounded(t, 1, 100*time.Millisecond)
		for range 1000 {
			c.come(t.Context(), "a", 5*time.Millisecond)
			time.Sleep(time.Millisecond)
		}
		if drained(c.full) == "" {
			t.Fatal("nobody was refused")
		}
		time.Sleep(200 * time.Millisecond)
		for range 15 {
			c.come(t.Context(), "a", 5*time.Millisecond)
		}
		if got := drained(c.full); got != "" {
			t.Errorf("refused %q", got)
		}
	})
}

// Who has waited for too long leaves, whatever was expected.
func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := bounded(t, 1, 100*time.Millisecond)
		c.come(t.Context(), "a", time.Hour)
		start := time.Now()
		_, err := c.queue.Acquire(t.Context(), schedule.Request{Caller: "b"})
		if took := time.Since(start); !errors.Is(err, schedule.ErrFull) || took != 100*time.Millisecond {
			t.Errorf("after %v: %v", took, err)
		}
		if n := c.queue.Waiting(); n != 0 {
			t.Errorf("%d wait", n)
		}
		// A batch waits.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.queue.Acquire(ctx, schedule.Request{Caller: "b", Batch: true}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a batch: %v", err)
		}
	})
}

// A call whose turn would come after its deadline is refused at once.
func TestDeadlineThatCannotBeMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := bounded(t, 1, time.Hour)
		for range 12 {
			c.come(t.Context(), "a", 100*time.Millisecond)
		}
		time.Sleep(550 * time.Millisecond) // six wait, for a known time each
		for _, test := range []struct {
			limit time.Duration
			want  error
		}{{300 * time.Millisecond, schedule.ErrFull}, {5 * time.Second, nil}} {
			ctx, cancel := context.WithTimeout(t.Context(), test.limit)
			start := time.Now()
			turn, err := c.queue.Acquire(ctx, schedule.Request{Caller: "a"})
			if !errors.Is(err, test.want) || err != nil && time.Since(start) > 0 {
				t.Errorf("with %v left, after %v: %v", test.limit, time.Since(start), err)
			}
			if err == nil {
				turn.Release()
			}
			cancel()
		}
	})
}

// What a refused call is told is about how long it would have waited.
func TestRefusalTellsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2, 40)
		for range 42 {
			c.come(t.Context(), "a", 10*time.Millisecond)
		}
		time.Sleep(105 * time.Millisecond)
		for range 20 {
			c.come(t.Context(), "a", 10*time.Millisecond)
		}
		_, err := c.queue.Acquire(t.Context(), schedule.Request{Caller: "a"})
		var full *schedule.FullError
		if !errors.As(err, &full) || full.Wait < 150*time.Millisecond || full.Wait > 250*time.Millisecond {
			t.Errorf("got %v, want about 200 ms", err)
		}
	})
}
