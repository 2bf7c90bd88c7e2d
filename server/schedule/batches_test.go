package schedule_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/server/schedule"
)

// send brings one batch of a caller's stream, as come does a call. Its turns are noted
// in capitals.
func (c *crowd) send(ctx context.Context, caller string, d time.Duration) {
	c.calls.Go(func() {
		turn, err := c.queue.Acquire(ctx, schedule.Request{Caller: caller, Batch: true})
		switch {
		case errors.Is(err, schedule.ErrFull):
			c.full <- strings.ToUpper(caller)
		case err == nil:
			c.turns <- strings.ToUpper(caller)
			time.Sleep(d)
			turn.Release()
		}
	})
	synctest.Wait()
}

// Calls go before batches, whoever came first.
func TestCallsGoBeforeBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 100)
		for range 3 {
			c.send(t.Context(), "a", time.Millisecond)
		}
		for range 3 {
			c.come(t.Context(), "b", time.Millisecond)
		}
		time.Sleep(time.Minute)
		if got, want := drained(c.turns), "A b b b A A"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// No number of calls keeps batches from a tenth of the time, which callers share.
func TestBatchesAreNotStarved(t *testing.T) {
	for _, each := range []time.Duration{time.Millisecond, 30 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, 2, 1000)
			ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
			defer stop()
			var mu sync.Mutex
			had := map[string]time.Duration{}
			var all sync.WaitGroup
			for caller, open := range map[string]int{"call a": 50, "call b": 3, "batch a": 3, "batch b": 30} {
				for range open {
					all.Go(func() {
						d := 3 * time.Millisecond
						batch := strings.HasPrefix(caller, "batch")
						if batch {
							d = each
						}
						for {
							turn, err := q.Acquire(ctx, schedule.Request{Caller: caller, Batch: batch})
							if err != nil {
								return
							}
							time.Sleep(d)
							turn.Release()
							mu.Lock()
							had[caller] += d
							mu.Unlock()
						}
					})
				}
			}
			all.Wait()
			for caller, share := range map[string]time.Duration{
				"call a": 18 * time.Second, "call b": 18 * time.Second, "batch a": 2 * time.Second, "batch b": 2 * time.Second,
			} {
				if off := had[caller] - share; off.Abs() > share/10 {
					t.Errorf("batches of %v: %s had %v, its share is %v", each, caller, had[caller], share)
				}
			}
		})
	}
}

// A queue full of batches has room for calls, and the other way round.
func TestCallsAndBatchesHaveRoomOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 2)
		for range 4 {
			c.send(t.Context(), "a", time.Millisecond)
		}
		for range 3 {
			c.come(t.Context(), "a", time.Millisecond)
		}
		if got := drained(c.full); got != "A a" {
			t.Errorf("refused %q", got)
		}
	})
}
