package schedule_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/server/schedule"
)

func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 6)
		come := func(callers string) {
			for _, caller := range strings.Fields(callers) {
				c.come(t.Context(), caller, time.Second)
			}
		}
		refused := func(want string) {
			t.Helper()
			if got := drained(c.full); got != want {
				t.Errorf("refused %q, want %q", got, want)
			}
		}
		come("greedy greedy greedy greedy greedy greedy greedy")
		refused("") // alone it may have all of it
		come("greedy")
		refused("greedy")
		come("a a")
		refused("greedy greedy")
		come("b")
		refused("greedy")
		// Now 3, 2 and 1 wait: who would have as many as the one that has most does
		// not drive that one out.
		come("a")
		refused("a")
		come("greedy")
		refused("greedy")
		come("b")
		refused("greedy")
		come("a b")
		refused("a b")
		time.Sleep(time.Minute)
		got := strings.Fields(drained(c.turns))
		slices.Sort(got)
		if diff := cmp.Diff(strings.Fields("a a b b greedy greedy greedy"), got); diff != "" {
			t.Errorf("whose turns came (-want +got):\n%s", diff)
		}
	})
}

// The newest gives way, not the one that has waited longest.
func TestNewestGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, 3)
		held, err := q.Acquire(t.Context(), schedule.Request{Caller: "x"})
		if err != nil {
			t.Fatal(err)
		}
		errs := make([]error, 3)
		for i := range errs {
			go func() {
				turn, err := q.Acquire(t.Context(), schedule.Request{Caller: "greedy"})
				if errs[i] = err; err == nil {
					turn.Release()
				}
			}()
			synctest.Wait()
		}
		go func() {
			turn, err := q.Acquire(t.Context(), schedule.Request{Caller: "modest"})
			if err != nil {
				t.Error(err)
				return
			}
			turn.Release()
		}()
		synctest.Wait()
		held.Release()
		synctest.Wait()
		if errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], schedule.ErrFull) {
			t.Errorf("errors %v", errs)
		}
	})
}

func TestWaiterLeavesWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, 10)
		held, err := q.Acquire(t.Context(), schedule.Request{Caller: "x"})
		if err != nil {
			t.Fatal(err)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := q.Acquire(ended, schedule.Request{Caller: "x"}); !errors.Is(err, context.Canceled) {
			t.Errorf("an ended context: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := q.Acquire(ctx, schedule.Request{Caller: "y"}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if n := q.Waiting(); n != 0 {
			t.Errorf("%d wait", n)
		}
		held.Release()
		if n := q.Running(); n != 0 {
			t.Errorf("%d run", n)
		}
	})
}

// A turn that comes when its waiter's context ends is not lost, whichever comes
// first and whichever the waiter sees first.
func TestTurnOfWhoLeavesGoesOn(t *testing.T) {
	saw := map[bool]int{}
	for i := range 500 {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, 1, 10)
			held, err := q.Acquire(t.Context(), schedule.Request{Caller: "x"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for _, call := range []struct {
				caller string
				ctx    context.Context
			}{{"leaves", ctx}, {"stays", t.Context()}} {
				go func() {
					turn, err := q.Acquire(call.ctx, schedule.Request{Caller: call.caller})
					if err == nil {
						turn.Release()
					} else if call.caller == "stays" || !errors.Is(err, context.Canceled) {
						t.Errorf("%s: %v", call.caller, err)
					}
					if call.caller == "leaves" {
						saw[err == nil]++
					}
				}()
				synctest.Wait()
			}
			if i%2 == 0 {
				cancel()
				held.Release()
			} else {
				held.Release()
				cancel()
			}
			synctest.Wait()
			if n, waiting := q.Running(), q.Waiting(); n != 0 || waiting != 0 {
				t.Fatalf("%d run and %d wait", n, waiting)
			}
		})
	}
	t.Logf("had its turn or left: %v", saw)
}
