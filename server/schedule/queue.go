// Package schedule shares turns between callers: few may run at a time, and of
// those who wait, no caller keeps another from its turn.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Request asks for a turn.
type Request struct {
	// Caller is whose turn it is to be: any string.
	Caller string
	// Batch says that it is a batch of a stream: calls go before it.
	Batch bool
	// Key, if it is not nil, says that the holder of another turn, whose request has
	// an equal one, may do Work in that turn (Turn.Gather). It must be comparable.
	Key any
	// Work is for that holder.
	Work any
	// Size of the work, in the unit of Gather.
	Size int64
}

// ErrTaken says that a request needs no turn of its own: the holder of another has
// taken its Work.
var ErrTaken = errors.New("the work is done in another turn")

// ErrFull says that more wait than may, or for longer than they may, and that the
// caller has its share of them. It comes as a *FullError.
var ErrFull = errors.New("the queue is full")

// FullError is ErrFull, with how long a turn would be waited for.
type FullError struct {
	// Wait is an estimate, from how long turns have taken.
	Wait time.Duration
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%v: the wait for a turn is about %v", ErrFull, e.Wait.Round(time.Microsecond))
}

// Is tells that it is ErrFull.
func (e *FullError) Is(target error) bool { return target == ErrFull }

// Config is how many turns there are and who may wait for them.
type Config struct {
	// Turns that may be taken at a time. At least 1.
	Turns int
	// Waiters is how many calls may wait, and as many batches of streams.
	Waiters int
	// MaxDelay bounds how long calls wait (see Queue); 0: nothing but their contexts
	// does.
	MaxDelay time.Duration
}

// Queue gives turns to callers. It is safe for concurrent use.
//
// A turn that is free is taken by whoever comes. When there is none, callers wait:
// those of one caller in the order in which they came, and between callers the next
// turn goes to the one that has had least. What it has had is the time for which it
// held turns while somebody waited. Neither the number of its calls nor their size
// nor what it says about them matters: ten short turns cost as much as a long one,
// and while nobody waits turns cost nothing.
//
// Calls go before batches of streams. While both wait, batches have a tenth of the
// time, shared between callers in the same way, so that no number of calls keeps
// streams from going on.
//
// How long calls wait is bounded by time. A call is refused when it comes if the
// turns before it are expected to take too long, or later if they did: MaxDelay, or
// the time of 20 turns if that is more, as long as the queue comes to be empty now
// and then, so that a burst is served. Once it has stood for as long as that, more
// comes than can be run, and whoever is let in waits for nothing but all that is
// before it: then only the time of one turn, or a twentieth of MaxDelay. What then
// waits for longer is refused, so that it is not answered late. Batches
// wait for as long as it takes: a stream sends no more before they are answered.
//
// Turns that go on are not interrupted.
type Queue struct {
	cfg Config

	mu      sync.Mutex // guards what follows; not held during a turn
	running int        // turns taken; all of them while somebody waits
	calls   order
	batches order
	// owed is how much time batches have had less than their share while they and
	// calls waited.
	owed time.Duration
	// clock is the clock of charges. It runs while somebody waits: so a turn for which
	// nobody had to wait needs no reading of it.
	clock stopwatch
	delay delay
}

// batchShare is which part of the time batches have while calls wait.
const batchShare = 10

// Turn is a turn taken, for its holder to release once.
type Turn struct {
	queue   *Queue
	request Request
	start   time.Duration // by the queue's clock
	charged time.Duration // at the start
	waited  time.Duration
}

// New returns a queue.
func New(cfg Config) (*Queue, error) {
	if cfg.Turns < 1 || cfg.Waiters < 0 || cfg.MaxDelay < 0 {
		return nil, fmt.Errorf("schedule: %d turns, %d waiters and a delay of %v", cfg.Turns, cfg.Waiters, cfg.MaxDelay)
	}
	return &Queue{cfg: cfg, calls: newOrder(), batches: newOrder(), delay: delay{most: cfg.MaxDelay}}, nil
}

// Acquire waits for a turn. The error is ctx's if that ends before; ErrTaken if
// another turn's holder has taken the work; or ErrFull: if as many wait as may, then
// the newest waiter of the caller that has most of them gives way, unless that is the
// caller itself or one that has but one more. So one that is alone may fill the
// queue, and when others come it is left with its share.
func (q *Queue) Acquire(ctx context.Context, r Request) (Turn, error) {
	if err := ctx.Err(); err != nil {
		return Turn{}, err
	}
	q.mu.Lock()
	if q.running < q.cfg.Turns {
		q.running++
		t := Turn{queue: q, request: r, start: q.clock.total}
		q.mu.Unlock()
		return t, nil
	}
	w, most, err := q.enter(ctx, r)
	q.mu.Unlock()
	if err != nil {
		return Turn{}, err
	}
	var late <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case err = <-w.done:
	case <-ctx.Done():
		if q.leave(w) {
			return Turn{}, ctx.Err()
		}
		err = <-w.done // it was sent before
	case <-late:
		if q.leave(w) {
			return Turn{}, &FullError{Wait: most}
		}
		err = <-w.done
	}
	if err != nil {
		return Turn{}, err
	}
	if err := ctx.Err(); err != nil {
		w.turn.Release()
		return Turn{}, err
	}
	return w.turn, nil
}

// enter queues a request, and tells the longest that it may wait if there is such a
// bound. q.mu is held.
func (q *Queue) enter(ctx context.Context, r Request) (_ *waiter, most time.Duration, err error) {
	now := time.Now()
	o := q.of(r)
	if !r.Batch && q.cfg.MaxDelay > 0 {
		bound, began := q.delay.bound(now, o.typical)
		if began {
			q.shed(bound)
		}
		wait := q.each(o.ahead(r.Caller))
		if wait >= bound {
			return nil, 0, &FullError{Wait: wait}
		}
		if end, ok := ctx.Deadline(); ok && now.Add(wait).After(end) {
			return nil, 0, &FullError{Wait: wait} // nobody would see the answer
		}
		// Who has had more than this caller comes after it, and may now be too late.
		for last := o.lastToCome(r.Caller); last != nil; last = o.lastToCome(r.Caller) {
			wait := q.each(o.backlog() - last.account.estimate + o.estimate(r.Caller))
			if wait < bound {
				break
			}
			o.remove(last)
			last.done <- &FullError{Wait: wait}
		}
		most = q.delay.patience(o.typical)
	}
	if o.waiters >= q.cfg.Waiters {
		give := o.newestOfMost(o.waitersOf(r.Caller) + 1)
		full := &FullError{Wait: q.each(o.ahead(r.Caller))}
		if give == nil {
			return nil, 0, full
		}
		o.remove(give)
		give.done <- full
	}
	w := &waiter{done: make(chan error, 1), request: r}
	o.push(r.Caller, w)
	q.setClocks(now)
	w.since = q.clock.at(now)
	return w, most, nil
}

// shed refuses the calls that are too late by a bound that holds from now on. They came
// while it might have been a burst; run, they would be answered late, and so would all
// who come before the queue is as short as it is to be. q.mu is held.
func (q *Queue) shed(bound time.Duration) {
	for last := q.calls.hindmost(); last != nil; last = q.calls.hindmost() {
		wait := q.each(q.calls.backlog() - last.account.estimate)
		if wait < bound {
			return
		}
		q.calls.remove(last)
		last.done <- &FullError{Wait: wait}
	}
}

// each is what of the time of turns, one after the other, is of each of those that go
// on at a time.
func (q *Queue) each(d time.Duration) time.Duration { return d / time.Duration(q.cfg.Turns) }

// of is the order in which requests of this kind have their turns.
func (q *Queue) of(r Request) *order {
	if r.Batch {
		return &q.batches
	}
	return &q.calls
}

// leave takes a waiter out that does not wait any more. It is false if its turn has
// come or another took its work.
func (q *Queue) leave(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return false
	}
	q.of(w.request).remove(w)
	q.setClocks(time.Now())
	return true
}

// next takes out the waiter whose turn it is and charges its caller for the
// estimate, which it returns; nil if nobody waits. q.mu is held.
func (q *Queue) next() (*waiter, time.Duration) {
	if q.calls.waiters > 0 && (q.batches.waiters == 0 || q.owed < min(q.batches.typical, maxDebt)) {
		return q.calls.next()
	}
	w, charged := q.batches.next()
	if q.calls.waiters > 0 {
		q.owed -= charged
	}
	return w, charged
}

// setClocks is called after the number of waiters has changed. q.mu is held.
func (q *Queue) setClocks(now time.Time) {
	q.clock.set(q.calls.waiters+q.batches.waiters > 0, now)
	q.delay.waiting.set(q.calls.waiters > 0, now)
}

// Waiting is how many wait now.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.calls.waiters + q.batches.waiters
}

// Running is how many turns are taken now.
func (q *Queue) Running() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running
}
