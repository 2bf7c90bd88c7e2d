package quota

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// breaker keeps calls from waiting for a store that does not answer. It is open
// after some failures in a row; then only the keeper's probes reach the store, and
// the first that succeeds closes it.
type breaker struct {
	changed  func(error) // told when the store goes, and with nil when it is back
	failures atomic.Uint64

	mu    sync.Mutex // guards what follows, and the order of what changed is told
	row   int        // failures since the last success
	state atomic.Pointer[awayError]
}

// awayError is since when and why the store does not answer.
type awayError struct {
	since time.Time
	err   error
}

const (
	// failuresInARow open the breaker: one may be a pause of the store's.
	failuresInARow = 3
	// probeEvery is how often the store is asked whether it is back.
	probeEvery = 200 * time.Millisecond
)

// away is nil while the store is asked.
func (b *breaker) away() *awayError { return b.state.Load() }

// report takes note of how a round trip ended.
func (b *breaker) report(err error) {
	if err != nil {
		b.failures.Add(1)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		// One that was sent before the store went does not show that it is back.
		if b.state.Load() == nil {
			b.row = 0
		}
	case b.state.Load() == nil:
		if b.row++; b.row >= failuresInARow {
			b.state.Store(&awayError{time.Now(), err})
			b.changed(err)
		}
	}
}

// probed takes note of how a probe ended.
func (b *breaker) probed(err error) {
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.row = 0
	if b.state.Swap(nil) != nil {
		b.changed(nil)
	}
}

// Probe asks the store, if there is one, whether it answers. If not, it counts as away
// at once: a server says so before its first call. It blocks for the store's timeout at
// the longest.
func (l *Limiter) Probe(ctx context.Context) {
	if l.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	err := l.store.Probe(ctx)
	if err == nil {
		return
	}
	for range failuresInARow {
		l.breaker.report(err)
	}
}
