package schedule

import "time"

// Share is a caller's part in what was done in a turn.
type Share struct {
	Caller string
	// Weight of it; all of 0 are equal parts.
	Weight int64
}

// Waited is how long the turn was waited for; 0 if it was free.
func (t *Turn) Waited() time.Duration { return t.waited }

// Gather takes the work of other requests of the same kind out of the queue whose
// Key equals that of the turn's, as long as their sizes come to no more than room.
// Their Acquire returns ErrTaken. Callers are gone round beginning with the one whose
// turn is next, and the requests of each are taken in the order in which they came.
func (t *Turn) Gather(room int64) []any {
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	o := q.of(t.request)
	if t.request.Key == nil || o.waiters == 0 {
		return nil
	}
	var taken []any
	for _, w := range o.gather(t.request.Key, room) {
		o.remove(w)
		w.done <- ErrTaken
		taken = append(taken, w.request.Work)
	}
	if taken != nil {
		q.setClocks(time.Now())
	}
	return taken
}

// Release ends the turn, for which its caller is charged. It does not block.
func (t *Turn) Release() {
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	now, took := q.took(t)
	if took > 0 || t.charged > 0 {
		q.of(t.request).charge(t.request.Caller, took, t.charged)
	}
	q.pass(now)
}

// ReleaseShared ends a turn in which the work of several was done, the caller of the
// turn among them, for which they are charged by their weights.
func (t *Turn) ReleaseShared(shares []Share) {
	total := int64(0)
	for _, s := range shares {
		total += s.Weight
	}
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	now, took := q.took(t)
	if took > 0 || t.charged > 0 {
		o := q.of(t.request)
		charged := t.charged
		for _, s := range shares {
			part := 1 / float64(len(shares))
			if total > 0 {
				part = float64(s.Weight) / float64(total)
			}
			before := time.Duration(0)
			if s.Caller == t.request.Caller {
				before, charged = charged, 0
			}
			o.charge(s.Caller, time.Duration(part*float64(took)), before)
		}
	}
	q.pass(now)
}

// took is how long the turn was held while somebody waited, which also counts
// towards what batches are owed. q.mu is held.
func (q *Queue) took(t *Turn) (now time.Time, took time.Duration) {
	if q.clock.runs {
		now = time.Now()
	}
	took = q.clock.at(now) - t.start
	switch {
	case q.batches.waiters == 0:
		q.owed = min(q.owed, 0) // what nobody waits for is not saved up
	case t.request.Batch:
		if q.calls.waiters > 0 {
			q.owed -= took - t.charged
		}
	default:
		q.owed += took / (batchShare - 1)
	}
	q.owed = min(max(q.owed, -maxDebt), maxDebt)
	return now, took
}

// pass gives the turn that ends to whoever is next. q.mu is held.
func (q *Queue) pass(now time.Time) {
	w, charged := q.next()
	if w == nil {
		q.running--
		return
	}
	at := q.clock.at(now)
	w.turn = Turn{queue: q, request: w.request, start: at, charged: charged, waited: at - w.since}
	q.setClocks(now)
	w.done <- nil
}
