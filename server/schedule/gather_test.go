package schedule_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/server/schedule"
)

// gathered has these requests wait, "caller/key/size" with a "!" behind it for a
// batch, while one of x with the key k has its turn, and is what that gathers.
func gathered(t *testing.T, room int64, requests string) (works string) {
	t.Helper()
	q := newQueue(t, 1, 100)
	held, err := q.Acquire(t.Context(), schedule.Request{Caller: "x", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	var taken, turns atomic.Int64
	all := strings.Fields(requests)
	for _, text := range all {
		r := schedule.Request{Work: text, Batch: strings.HasSuffix(text, "!")}
		parts := strings.Split(strings.TrimSuffix(text, "!"), "/")
		r.Caller, r.Key = parts[0], parts[1]
		if _, err := fmt.Sscan(parts[2], &r.Size); err != nil {
			t.Fatal(err)
		}
		if r.Key == "-" {
			r.Key = nil
		}
		go func() {
			switch turn, err := q.Acquire(t.Context(), r); {
			case err == nil:
				turns.Add(1)
				turn.Release()
			case errors.Is(err, schedule.ErrTaken):
				taken.Add(1)
			default:
				t.Error(err)
			}
		}()
		synctest.Wait()
	}
	var names []string
	for _, work := range held.Gather(room) {
		names = append(names, work.(string))
		synctest.Wait()
	}
	if n := q.Waiting(); n != len(all)-len(names) {
		t.Errorf("%d wait", n)
	}
	held.Release()
	synctest.Wait()
	if int(taken.Load()) != len(names) || int(turns.Load()) != len(all)-len(names) || q.Running() != 0 {
		t.Errorf("%d taken and %d turns of %d, %d run", taken.Load(), turns.Load(), len(all), q.Running())
	}
	return strings.Join(names, " ")
}

func TestGather(t *testing.T) {
	for name, test := range map[string]struct {
		room     int64
		requests string
		want     string
	}{
		"nobody waits":             {10, "", ""},
		"the key must be equal":    {10, "a/k/1 a/j/1 b/-/1 b/k/1", "a/k/1 b/k/1"},
		"calls only for a call":    {10, "a/k/1! a/k/1", "a/k/1"},
		"round between callers":    {4, "a/k/1 a/k/1 a/k/1 a/k/1 b/k/1 c/k/1", "a/k/1 b/k/1 c/k/1 a/k/1"},
		"as long as there is room": {5, "a/k/3 a/k/3 b/k/2 b/k/1", "a/k/3 b/k/2"},
		"what does not fit waits":  {2, "a/k/3 b/k/2", "b/k/2"},
		"a caller's own order":     {3, "a/k/2 a/k/2 a/k/1", "a/k/2"},
		"no room":                  {0, "a/k/1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := gathered(t, test.room, test.requests); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		})
	}
}

// A caller that has no key gathers nothing.
func TestGatherNeedsAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, 10)
		held, err := q.Acquire(t.Context(), schedule.Request{Caller: "x"})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if turn, err := q.Acquire(t.Context(), schedule.Request{Caller: "y", Size: 1}); err == nil {
				turn.Release()
			}
		}()
		synctest.Wait()
		if got := held.Gather(10); got != nil {
			t.Errorf("gathered %v", got)
		}
		held.Release()
	})
}

// Callers pay for their part of a shared turn, and so have as much less later.
func TestSharedTurnIsPaidByItsShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 1000)
		held, err := c.queue.Acquire(t.Context(), schedule.Request{Caller: "x"})
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			c.come(t.Context(), "heavy", time.Millisecond)
			c.come(t.Context(), "light", time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		held.ReleaseShared([]schedule.Share{{Caller: "x", Weight: 10}, {Caller: "heavy", Weight: 70}, {Caller: "light", Weight: 20}})
		time.Sleep(75 * time.Millisecond)
		got := drained(c.turns)
		heavy, light := strings.Count(got, "heavy"), strings.Count(got, "light")
		if ahead := light - heavy; ahead < 48 || ahead > 52 {
			t.Errorf("light had %d turns of 1 ms and heavy %d, want 50 more", light, heavy)
		}
	})
}
