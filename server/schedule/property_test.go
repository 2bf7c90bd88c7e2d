package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/server/schedule"
)

// history is what happened in a crowd, checked as it happens.
type history struct {
	t     *testing.T
	turns int

	mu      sync.Mutex // guards what follows
	running int
	waiting map[string]int
	// passed is how much time others were given since the caller has waited: by
	// caller, then by other.
	passed map[string]map[string]time.Duration
	worst  time.Duration
}

func (h *history) waits(caller string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting[caller]++; h.waiting[caller] == 1 {
		h.passed[caller] = make(map[string]time.Duration)
	}
}

func (h *history) left(caller string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting[caller]--
}

// begins is told of a turn that will take d.
func (h *history) begins(caller string, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running++; h.running > h.turns {
		h.t.Errorf("%d turns at a time", h.running)
	}
	h.waiting[caller]--
	for _, time := range h.passed[caller] {
		h.worst = max(h.worst, time)
	}
	h.passed[caller] = make(map[string]time.Duration)
	for other, n := range h.waiting {
		if n > 0 && other != caller {
			h.passed[other][caller] += d
		}
	}
}

func (h *history) ends() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running--
}

// Whatever comes in whatever order: no caller that waits is passed over for longer
// than a few turns of each other, nothing is lost, nobody runs twice, the bounds
// hold, and no turn is free while somebody waits.
func TestRandomCrowds(t *testing.T) {
	const longest = 20 * time.Millisecond
	worst := time.Duration(0)
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 0))
				turns, limit := 1+random.IntN(4), 20+random.IntN(200)
				q := newQueue(t, turns, limit)
				h := &history{t: t, turns: turns, waiting: make(map[string]int), passed: make(map[string]map[string]time.Duration)}
				callers := 2 + random.IntN(8)
				var had, full, gone atomic.Int64
				var calls sync.WaitGroup
				total := 0
				for range 400 {
					// The first floods, the others come one by one; each has turns of its own length.
					caller, n := 0, 1+random.IntN(20)
					if random.IntN(2) > 0 {
						caller, n = 1+random.IntN(callers), 1
					}
					for range n {
						total++
						d := longest / time.Duration(1+caller%4) * time.Duration(50+random.IntN(50)) / 100
						ctx, cancel := t.Context(), context.CancelFunc(func() {})
						if random.IntN(10) == 0 {
							ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(50))*time.Millisecond)
						}
						calls.Go(func() {
							defer cancel()
							name := fmt.Sprint(caller)
							h.waits(name)
							turn, err := q.Acquire(ctx, schedule.Request{Caller: name})
							switch {
							case err == nil:
								h.begins(name, d)
								time.Sleep(d)
								h.ends()
								turn.Release()
								had.Add(1)
							case errors.Is(err, schedule.ErrFull):
								h.left(name)
								full.Add(1)
							case errors.Is(err, context.DeadlineExceeded):
								h.left(name)
								gone.Add(1)
							default:
								t.Error(err)
							}
						})
					}
					synctest.Wait()
					if n := q.Waiting(); n > limit || n > 0 && q.Running() != turns {
						t.Fatalf("%d wait of at most %d while %d of %d run", n, limit, q.Running(), turns)
					}
					time.Sleep(time.Duration(random.Int64N(int64(longest))))
				}
				calls.Wait()
				if sum := had.Load() + full.Load() + gone.Load(); sum != int64(total) {
					t.Errorf("%d of %d calls ended", sum, total)
				}
				if had.Load() == 0 || q.Running() != 0 || q.Waiting() != 0 {
					t.Errorf("%d turns; left are %d that run and %d that wait", had.Load(), q.Running(), q.Waiting())
				}
				// What others begin before the first of it is charged for, on both sides.
				if bound := time.Duration(2*turns+1) * longest; h.worst > bound {
					t.Errorf("a caller that waited saw another have %v, want at most %v", h.worst, bound)
				}
				worst = max(worst, h.worst)
			})
		})
	}
	t.Logf("while a caller waited, another had at most %v", worst)
}

// The same without a bubble, for the race detector.
func TestManyAtOnce(t *testing.T) {
	const turns = 3
	q := newQueue(t, turns, 40)
	var running, had, full atomic.Int64
	var calls sync.WaitGroup
	for i := range 64 {
		calls.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+(i+j)%5)*time.Millisecond)
				turn, err := q.Acquire(ctx, schedule.Request{Caller: fmt.Sprint(i % 7)})
				switch {
				case err == nil:
					if n := running.Add(1); n > turns {
						t.Errorf("%d turns at a time", n)
					}
					had.Add(1)
					running.Add(-1)
					turn.Release()
				case errors.Is(err, schedule.ErrFull):
					full.Add(1)
				case !errors.Is(err, context.DeadlineExceeded):
					t.Error(err)
				}
				cancel()
			}
		})
	}
	calls.Wait()
	if q.Running() != 0 || q.Waiting() != 0 || had.Load() == 0 {
		t.Errorf("%d turns and %d refusals; left are %d that run and %d that wait", had.Load(), full.Load(), q.Running(), q.Waiting())
	}
}
