package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/server/schedule"
)

func newQueue(tb testing.TB, turns, limit int) *schedule.Queue {
	tb.Helper()
	q, err := schedule.New(schedule.Config{Turns: turns, Waiters: limit})
	if err != nil {
		tb.Fatal(err)
	}
	return q
}

func TestNewRefusesSettings(t *testing.T) {
	for _, bad := range [][2]int{{0, 1}, {-1, 1}, {1, -1}} {
		if _, err := schedule.New(schedule.Config{Turns: bad[0], Waiters: bad[1]}); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

// crowd is callers in a bubble of synctest, with the order in which they get
// their turns.
type crowd struct {
	queue *schedule.Queue
	turns chan string // who had them, in order
	full  chan string // who was refused
	calls sync.WaitGroup
}

func newCrowd(t *testing.T, turns, limit int) *crowd {
	c := &crowd{queue: newQueue(t, turns, limit), turns: make(chan string, 10_000), full: make(chan string, 10_000)}
	t.Cleanup(c.calls.Wait) // who still waits leaves with the test's context
	return c
}

// come brings one call of a caller, who then waits or holds its turn for d. When
// it returns the call waits, has its turn or is refused.
func (c *crowd) come(ctx context.Context, caller string, d time.Duration) {
	c.calls.Go(func() {
		turn, err := c.queue.Acquire(ctx, schedule.Request{Caller: caller})
		switch {
		case errors.Is(err, schedule.ErrFull):
			c.full <- caller
		case err == nil:
			c.turns <- caller
			time.Sleep(d)
			turn.Release()
		}
	})
	synctest.Wait()
}

func drained(names chan string) string {
	var all []string
	for len(names) > 0 {
		all = append(all, <-names)
	}
	return strings.Join(all, " ")
}

// One caller's flood came first, and the others have the next turns all the same.
func TestTurnsGoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 100)
		for range 5 {
			c.come(t.Context(), "greedy", time.Second)
		}
		for range 2 {
			c.come(t.Context(), "a", time.Second)
			c.come(t.Context(), "b", time.Second)
		}
		time.Sleep(time.Minute)
		if got, want := drained(c.turns), "greedy a b greedy a b greedy greedy greedy"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// Within a caller turns go in order of arrival.
func TestOneCallerIsServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, 100)
		held, err := q.Acquire(t.Context(), schedule.Request{Caller: "other"})
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for i := range 20 {
			go func() {
				turn, err := q.Acquire(t.Context(), schedule.Request{Caller: "one"})
				if err != nil {
					t.Error(err)
					return
				}
				got = append(got, i) // the turn is the only one
				turn.Release()
			}()
			synctest.Wait()
		}
		held.Release()
		synctest.Wait()
		if !slices.IsSorted(got) || len(got) != 20 {
			t.Errorf("served %v", got)
		}
	})
}

// Callers that always want more get the same time, however long their turns are
// and whatever they send at once.
func TestTimeIsShared(t *testing.T) {
	for _, turns := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("turns=%d", turns), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				callers := map[string]struct {
					open int // calls at a time
					each time.Duration
				}{
					"heavy": {64, 40 * time.Millisecond}, "flood": {200, time.Millisecond},
					"light": {4, time.Millisecond}, "odd": {5, 7 * time.Millisecond},
				}
				q := newQueue(t, turns, 1000)
				ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
				defer stop()
				type use struct {
					caller string
					time   time.Duration
				}
				uses := make(chan use, 100)
				had := make(map[string]time.Duration)
				for caller, c := range callers {
					for range c.open {
						go func() {
							for {
								turn, err := q.Acquire(ctx, schedule.Request{Caller: caller})
								if err != nil {
									uses <- use{}
									return
								}
								time.Sleep(c.each)
								turn.Release()
								uses <- use{caller, c.each}
							}
						}()
					}
				}
				for left := 64 + 200 + 4 + 5; left > 0; {
					u := <-uses
					had[u.caller] += u.time
					if u.caller == "" {
						left--
					}
				}
				share := time.Duration(turns) * 20 * time.Second / time.Duration(len(callers))
				for caller := range callers {
					if off := had[caller] - share; off.Abs() > share/20 {
						t.Errorf("%s had %v, its share is %v", caller, had[caller], share)
					}
				}
			})
		})
	}
}

// Long turns are paid for also if they began when nobody waited.
func TestTurnTakenFreelyIsPaidForWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 100)
		c.come(t.Context(), "heavy", 100*time.Millisecond)
		for range 30 {
			c.come(t.Context(), "light", 10*time.Millisecond)
		}
		c.come(t.Context(), "heavy", 100*time.Millisecond)
		time.Sleep(time.Minute)
		got := strings.Fields(drained(c.turns))
		if at := slices.Index(got[1:], "heavy"); at < 9 || at > 11 {
			t.Errorf("heavy had its next turn after %d short ones, want 10", at)
		}
	})
}

// Nor does it matter that those who waited have had their turns since.
func TestTurnIsPaidForWhenNobodyWaitsAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2, 100)
		c.come(t.Context(), "heavy", 100*time.Millisecond)
		c.come(t.Context(), "x", 50*time.Millisecond)
		c.come(t.Context(), "y", 10*time.Millisecond) // waits for 50 ms
		time.Sleep(150 * time.Millisecond)
		c.come(t.Context(), "x", time.Second)
		c.come(t.Context(), "x", 10*time.Millisecond)
		drained(c.turns)
		c.come(t.Context(), "heavy", 10*time.Millisecond)
		for range 20 {
			c.come(t.Context(), "light", 10*time.Millisecond)
		}
		time.Sleep(500 * time.Millisecond)
		got := strings.Fields(drained(c.turns))
		if at := slices.Index(got, "heavy"); at < 4 || at > 6 {
			t.Errorf("heavy had its next turn after %d of 10 ms, want 5", at)
		}
	})
}

// Nobody has all the turns for a while, and then another: what a turn will cost
// counts when it begins.
func TestTurnsAtATimeAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const turns = 4
		q := newQueue(t, turns, 1000)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		var running [2]atomic.Int32
		each := [2]time.Duration{7 * time.Millisecond, 40 * time.Millisecond}
		var calls sync.WaitGroup
		for caller := range running {
			for i := range 20 {
				calls.Go(func() {
					for time.Sleep(time.Duration(i) * time.Millisecond); ; { // not all at once
						turn, err := q.Acquire(ctx, schedule.Request{Caller: fmt.Sprint(caller)})
						if err != nil {
							return
						}
						running[caller].Add(1)
						time.Sleep(each[caller])
						running[caller].Add(-1)
						turn.Release()
					}
				})
			}
		}
		time.Sleep(200*time.Millisecond + 500*time.Microsecond)
		for range 500 {
			if n := running[0].Load(); n == 0 || n == turns {
				t.Errorf("one caller has %d turns of %d", n, turns)
				break
			}
			time.Sleep(time.Millisecond)
		}
		calls.Wait()
	})
}

// For the time in which it wanted nothing a caller gets nothing.
func TestNobodySavesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 1000)
		c.come(t.Context(), "early", 10*time.Millisecond)
		c.come(t.Context(), "late", 10*time.Millisecond) // it is known from before
		for range 300 {
			c.come(t.Context(), "early", 10*time.Millisecond)
		}
		time.Sleep(time.Second)
		for range 100 {
			c.come(t.Context(), "late", 10*time.Millisecond)
		}
		drained(c.turns)
		time.Sleep(400 * time.Millisecond)
		got := drained(c.turns)
		if early := strings.Count(got, "early"); early < 18 || early > 22 {
			t.Errorf("of 40 turns early had %d, want half of them", early)
		}
	})
}

// Nobody waits for longer than until the others have had as much as is remembered.
func TestDebtIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1, 1000)
		c.come(t.Context(), "long", time.Hour)
		for range 100 {
			c.come(t.Context(), "short", time.Second)
		}
		c.come(t.Context(), "long", time.Second)
		time.Sleep(time.Hour + time.Minute)
		got := strings.Fields(drained(c.turns))
		if at := slices.Index(got[1:], "long"); at < 3 || at > 7 {
			t.Errorf("long had its next turn after %d others, want about 5", at)
		}
	})
}

func TestWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, 10)
		held, err := q.Acquire(t.Context(), schedule.Request{Caller: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if held.Waited() != 0 {
			t.Errorf("a free turn was waited for %v", held.Waited())
		}
		time.AfterFunc(time.Second, held.Release)
		turn, err := q.Acquire(t.Context(), schedule.Request{Caller: "y"})
		if err != nil {
			t.Fatal(err)
		}
		turn.Release()
		if turn.Waited() != time.Second {
			t.Errorf("waited for %v", turn.Waited())
		}
	})
}

// Callers that have gone are forgotten, however many come.
func TestCallersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, 10)
		most := 0
		for i := range 5000 {
			turn, err := q.Acquire(t.Context(), schedule.Request{Caller: "x"})
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(time.Millisecond, turn.Release)
			turn, err = q.Acquire(t.Context(), schedule.Request{Caller: fmt.Sprint(i)})
			if err != nil {
				t.Fatal(err)
			}
			turn.Release()
			most = max(most, q.Accounts())
		}
		if most > 200 {
			t.Errorf("%d callers were remembered", most)
		}
	})
}
