package sallyport

import (
	"cmp"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Budget bounds how often a client does again what has failed, in all its calls
// together, so that servers that can take no more are not asked for yet more. A
// call that succeeds earns Ratio of a retry, and each second earns PerSecond; a
// retry takes one. What was earned is kept for about ten seconds. So with servers
// that refuse everything the attempts are at most 1+Ratio times the calls, and
// PerSecond each second beside.
//
// The zero value of a field is its default; less than 0 is none at all.
type Budget struct {
	// Ratio is how many retries a call that succeeds allows; 0.2.
	Ratio float64
	// PerSecond is how many retries a second are allowed in any case; 10. Ten
	// seconds of it are there at the start.
	PerSecond float64
}

// ErrRetryBudget is beside the error of a call that was not made again, though it
// might have had luck, because the client's budget is used up.
var ErrRetryBudget = errors.New("not tried again, because the client's retry budget is used up")

const (
	// keep is the time constant of what is kept: it fades, so that an hour of
	// successes does not allow a storm.
	keep = 10 * time.Second
	// settleEach is after how many successes the budget is brought up to date, so
	// that its formula sees no long time as one. A power of two.
	settleEach = 256
)

// budget is the retries that are left.
type budget struct {
	ratio, perSecond float64
	now              func() time.Time
	// successes since the last update. Calls that succeed need no lock.
	successes atomic.Uint64

	mu      sync.Mutex // guards what follows
	left    float64
	updated time.Time
}

func newBudget(cfg Budget, now func() time.Time) *budget {
	b := &budget{ratio: max(cmp.Or(cfg.Ratio, 0.2), 0), perSecond: max(cmp.Or(cfg.PerSecond, 10), 0), now: now, updated: now()}
	b.left = b.perSecond * keep.Seconds()
	return b
}

// earn is told of every success.
func (b *budget) earn() {
	if b.successes.Add(1)%settleEach == 0 {
		b.mu.Lock()
		b.update()
		b.mu.Unlock()
	}
}

// spend tells whether a retry is allowed, and takes it.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.update()
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// update brings left up to now: since the last time so much was earned a second,
// evenly, and everything has faded.
func (b *budget) update() {
	now := b.now()
	passed := now.Sub(b.updated).Seconds()
	if passed <= 0 {
		return // the successes wait for the next time
	}
	b.updated = now
	earned := b.perSecond + b.ratio*float64(b.successes.Swap(0))/passed
	most := earned * keep.Seconds() // what left comes to if it goes on like this
	b.left = most + (b.left-most)*math.Exp(-passed/keep.Seconds())
}
