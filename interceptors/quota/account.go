package quota

import (
	"math"
	"time"
)

// name is whom an account belongs to.
type name struct{ caller, key string }

// account is what one caller has left under one key. Its shard's mu guards it.
type account struct {
	name     name
	limits   Limits
	requests bucket
	rows     bucket
	at       time.Duration // the time for which the tokens hold
	streams  int64
	shared   *shared       // nil without a Store
	told     time.Duration // when the caller was told how it stands; 0 if never

	// fullAt orders the shard's heap. It is never later than full, but may be
	// earlier: what is taken does not move it; it is corrected when it comes up.
	fullAt time.Duration
	index  int // in the heap; gone once forgotten
}

const gone = math.MaxInt

func newAccount(n name, limits Limits, now time.Duration) *account {
	return &account{
		name: n, limits: limits, at: now, fullAt: now,
		requests: newBucket(limits.RequestsPerSecond, limits.RequestBurst),
		rows:     newBucket(limits.RowsPerSecond, limits.RowBurst),
	}
}

// elapsed is the time since the tokens were counted. A clock that steps back
// gives nothing and takes nothing.
func (a *account) elapsed(now time.Duration) time.Duration { return max(0, now-a.at) }

// settle counts the tokens at now.
func (a *account) settle(now time.Duration) {
	d := a.elapsed(now)
	a.requests.tokens, a.rows.tokens = a.requests.after(d), a.rows.after(d)
	a.at = max(a.at, now)
}

// adopt takes new limits over.
func (a *account) adopt(limits Limits, now time.Duration) {
	a.settle(now)
	a.limits = limits
	a.requests.adopt(limits.RequestsPerSecond, limits.RequestBurst)
	a.rows.adopt(limits.RowsPerSecond, limits.RowBurst)
	if s := a.shared; s != nil {
		// What is held was taken under the limits before: it goes back first.
		for k, n := range s.held {
			s.back[k] += n
		}
		s.held, s.most, s.believed = Amounts{}, s.shard.limiter.lease.most(&limits), 0
	}
}

// take takes both or, with an *Exceeded, neither. Tokens are counted anew only
// when some are taken, so that how long a refused call has to wait does not
// depend on how often it asks.
func (a *account) take(requests, rows float64, now time.Duration) error {
	d := a.elapsed(now)
	if a.requests.after(d) >= requests && a.rows.after(d) >= rows {
		a.settle(now)
		a.requests.tokens -= requests
		a.rows.tokens -= rows
		return nil
	}
	e := &Exceeded{Limit: Requests, Max: a.limits.RequestBurst}
	wait := a.requests.until(requests)
	if w := a.rows.until(rows); w > wait {
		e.Limit, e.Max, wait = Rows, a.limits.RowBurst, w
	}
	if wait < long {
		e.RetryAfter = a.at + wait - now
	}
	return e
}

// drain takes what there is of both, without asking whether it is enough.
func (a *account) drain(requests, rows float64, now time.Duration) {
	a.settle(now)
	a.requests.tokens = max(0, a.requests.tokens-requests)
	a.rows.tokens = max(0, a.rows.tokens-rows)
}

// full is when the account will say nothing that a new one would not; long if
// not by itself.
func (a *account) full() time.Duration {
	wait := max(a.requests.until(a.requests.burst), a.rows.until(a.rows.burst))
	if a.streams > 0 || wait == long {
		return long
	}
	if s := a.shared; s != nil && (s.flight != nil || s.placing != nil) {
		return long // what the store answers is this account's
	}
	if s := a.shared; s != nil && !s.empty() {
		return max(a.at+wait, s.keep)
	}
	return a.at + wait
}
