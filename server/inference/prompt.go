package inference

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// promptly is how long a batch takes that is over sooner than it is worth to have
// another goroutine run it beside the next ones.
const promptly = 50 * time.Microsecond

// prompt is which batches of a stream are expected to take no longer than promptly,
// waiting for a turn included: those with as many rows as one that did not, or
// fewer. It is safe for concurrent use; who is wrong loses a little time.
type prompt struct{ rows atomic.Int64 }

func (p *prompt) expected(rows int64) bool { return rows <= p.rows.Load() }

// took is told how long a batch took.
func (p *prompt) took(rows int64, d time.Duration) {
	switch most := p.rows.Load(); {
	case d > promptly && rows <= most:
		p.rows.Store(rows - 1)
	case d <= promptly && rows > most:
		p.rows.Store(rows)
	}
}

// lateContext is a context that ends limit after start, made so late that a batch
// that is over at once has never had a timer.
type lateContext struct {
	context.Context
	start time.Time
	limit time.Duration

	once   sync.Once
	inner  atomic.Pointer[context.Context]
	cancel context.CancelFunc
}

// Deadline is the earlier of the two.
func (c *lateContext) Deadline() (time.Time, bool) {
	end := c.start.Add(c.limit)
	if d, ok := c.Context.Deadline(); ok && d.Before(end) {
		return d, true
	}
	return end, true
}

// Done makes the timer.
func (c *lateContext) Done() <-chan struct{} {
	c.once.Do(func() {
		inner, cancel := context.WithDeadline(c.Context, c.start.Add(c.limit))
		c.cancel = cancel
		c.inner.Store(&inner)
	})
	return (*c.inner.Load()).Done()
}

// Err is nil until the context has ended.
func (c *lateContext) Err() error {
	if inner := c.inner.Load(); inner != nil {
		return (*inner).Err()
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	if time.Since(c.start) >= c.limit {
		return context.DeadlineExceeded
	}
	return nil
}

// Value knows the context that Done made, so that those made of this one need no
// goroutine to hear of its end.
func (c *lateContext) Value(key any) any {
	if inner := c.inner.Load(); inner != nil {
		return (*inner).Value(key)
	}
	return c.Context.Value(key)
}

// end frees the timer. The context must not be used by then.
func (c *lateContext) end() {
	if c.inner.Load() != nil {
		c.cancel()
	}
}
