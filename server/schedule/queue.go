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

// ErrFull says that more wait than may, and that the caller has its share of them.
var ErrFull = errors.New("the queue is full")

// Queue gives turns to callers. It is safe for concurrent use.
//
// A turn that is free is taken by whoever comes. When there is none, callers wait:
// those of one caller in the order in which they came, and between callers the next
// turn goes to the one that has had least. What it has had is the time for which it
// held turns while somebody waited. Neither the number of its calls nor their size
// nor what it says about them matters: ten short turns cost as much as a long one,
// and while nobody waits turns cost nothing.
//
// Turns that go on are not interrupted.
type Queue struct {
	turns, limit int

	mu      sync.Mutex // guards what follows; not held during a turn
	running int        // turns taken; all of them while somebody waits
	order   order

	// The clock of charges runs while somebody waits. So a turn for which nobody
	// had to wait needs no reading of it.
	contended time.Duration // until the last time that somebody began to wait
	since     time.Time     // when that was
}

// Turn is a turn taken, for its holder to release once.
type Turn struct {
	queue   *Queue
	caller  string
	start   time.Duration // by the queue's clock
	charged time.Duration // at the start
	waited  time.Duration
}

// New returns a queue with so many turns at a time, for which up to limit may wait.
func New(turns, limit int) (*Queue, error) {
	if turns < 1 || limit < 0 {
		return nil, fmt.Errorf("schedule: %d turns and %d waiters", turns, limit)
	}
	return &Queue{turns: turns, limit: limit, order: newOrder()}, nil
}

// Acquire waits for a turn of the caller, whose name is any string. The error is
// ctx's if that ends before, or ErrFull: if as many wait as may, then the newest
// waiter of the caller that has most of them gives way, unless that is the caller
// itself or one that has but one more. So one that is alone may fill the queue, and
// when others come it is left with its share.
func (q *Queue) Acquire(ctx context.Context, caller string) (Turn, error) {
	if err := ctx.Err(); err != nil {
		return Turn{}, err
	}
	q.mu.Lock()
	if q.running < q.turns {
		q.running++
		t := Turn{queue: q, caller: caller, start: q.contended}
		q.mu.Unlock()
		return t, nil
	}
	w, err := q.enter(caller)
	q.mu.Unlock()
	if err != nil {
		return Turn{}, err
	}
	select {
	case err = <-w.done:
	case <-ctx.Done():
		if q.leave(w) {
			return Turn{}, ctx.Err()
		}
		err = <-w.done // it was sent before
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

// enter queues the caller. q.mu is held.
func (q *Queue) enter(caller string) (*waiter, error) {
	if q.order.waiters >= q.limit {
		give := q.order.newestOfMost(q.order.waitersOf(caller) + 1)
		if give == nil {
			return nil, ErrFull
		}
		q.order.remove(give)
		give.done <- ErrFull
	}
	if q.order.waiters == 0 {
		q.since = time.Now()
	}
	w := &waiter{done: make(chan error, 1), since: q.now()}
	q.order.push(caller, w)
	return w, nil
}

// leave takes a waiter out whose context has ended. It is false if it no longer
// waits.
func (q *Queue) leave(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return false
	}
	now := q.now()
	q.order.remove(w)
	q.stopClock(now)
	return true
}

// Waited is how long the turn was waited for; 0 if it was free.
func (t Turn) Waited() time.Duration { return t.waited }

// Release ends the turn. It does not block.
func (t Turn) Release() {
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	if took := now - t.start; took > 0 || t.charged > 0 {
		q.order.charge(t.caller, took, t.charged)
	}
	w, charged := q.order.next()
	if w == nil {
		q.running--
		return
	}
	q.stopClock(now)
	w.turn = Turn{queue: q, caller: w.account.caller, start: now, charged: charged, waited: now - w.since}
	w.done <- nil
}

// now is the time by the clock of charges. q.mu is held.
func (q *Queue) now() time.Duration {
	if q.order.waiters == 0 {
		return q.contended
	}
	return q.contended + time.Since(q.since)
}

// stopClock stops the clock if nobody waits any more; it was now when the last one
// still did. q.mu is held.
func (q *Queue) stopClock(now time.Duration) {
	if q.order.waiters == 0 {
		q.contended = now
	}
}

// Running is how many turns are taken now.
func (q *Queue) Running() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running
}

// Waiting is how many wait now.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.order.waiters
}
