// Package quota limits how much each caller may use: requests and rows by the
// second, rows in one request, open streams, and budgets by the day and month.
//
// A Limiter by itself keeps all in memory, bounded, however many callers there
// are. With a Store, replicas share the limits: each takes tokens ahead from the
// store, a lease, and spends them without asking. What has been taken can be spent
// by who took it only, so that within any time T no more is spent than
//
//	burst + rate × T + replicas × Lease.Share × burst
//
// of a rate, the last term being the leases that were out at its beginning, and of
// a budget never more than it, but for what can only be counted afterwards: bytes
// sent, and model time beyond its estimate, of the calls that run when the budget
// is used up. A store that loses what it kept begins anew: then each bucket is full
// and each budget unused, once for each such loss.
package quota

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// Config is the setting of a Limiter. The zero value is usable.
type Config struct {
	// MaxCallers is how many accounts (pairs of caller and key) are kept; 100,000
	// if 0. Each takes about 400 bytes beside the names, with a Store twice that.
	MaxCallers int
	// Idle is how long an account that says nothing more is kept for the case that
	// its caller comes back, while there is room; a minute if 0.
	Idle time.Duration
	// Now is the clock; time.Now if nil.
	Now func() time.Time

	// Store is shared with other replicas; nil if this one is alone. The fields
	// below matter with a store only.
	Store Store
	// Lease is what this replica may take ahead.
	Lease Lease
	// Timeout bounds a round trip to the store; 50 ms if 0.
	Timeout time.Duration
	// StoreChanged is told when the store does not answer any more, and with nil
	// when it does again. It must not call the Limiter. May be nil.
	StoreChanged func(error)
}

// Limiter keeps an account for each caller and key. It is safe for concurrent
// use, and blocks only for other callers' bookkeeping.
//
// An account that has its full burst and no open stream says nothing that a new
// one would not. Such accounts are forgotten, and only such: when they have been
// idle for some time, or at once if others need the room. If there is no such
// account and no room, a caller without an account is refused with Callers, and
// those that have one are not affected. Forgetting another would give whoever
// drained it a fresh burst: a flood of identities would then buy the flooder
// what the limit is there to deny.
type Limiter struct {
	now        func() time.Time
	epoch      time.Time
	idle       time.Duration
	maxCallers int
	seed       maphash.Seed // not known outside, so that nobody can aim at one shard
	shards     []shard

	// With a store.
	store   Store
	lease   Lease
	timeout time.Duration
	breaker breaker
	keeper  *keeper
	trips   atomic.Uint64
}

// New returns a Limiter without any account. With a Store it must be closed.
func New(cfg Config) *Limiter {
	const (
		maxShards = 64
		perShard  = 1024 // at least, so that shards fill evenly
	)
	if cfg.MaxCallers <= 0 {
		cfg.MaxCallers = 100_000
	}
	if cfg.Idle <= 0 {
		cfg.Idle = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	n := max(1, min(maxShards, cfg.MaxCallers/perShard))
	l := &Limiter{
		now: cfg.Now, epoch: cfg.Now(), idle: cfg.Idle, maxCallers: cfg.MaxCallers,
		seed: maphash.MakeSeed(), shards: make([]shard, n),
	}
	for i := range l.shards {
		l.shards[i].limiter = l
		l.shards[i].accounts = make(map[name]*account)
		l.shards[i].active = make(map[*account]struct{})
	}
	if cfg.Store == nil {
		return l
	}
	l.store, l.lease, l.timeout = cfg.Store, cfg.Lease.withDefaults(), cfg.Timeout
	if l.timeout <= 0 {
		l.timeout = 50 * time.Millisecond
	}
	if l.breaker.changed = cfg.StoreChanged; l.breaker.changed == nil {
		l.breaker.changed = func(error) {}
	}
	l.startKeeper()
	return l
}

func (l *Limiter) shard(caller string) *shard {
	return &l.shards[maphash.String(l.seed, caller)%uint64(len(l.shards))]
}

// Reserve takes one request and the rows from the account of caller and key as
// this process alone keeps it, or nothing: then the error is an *Exceeded. It asks
// no Store and knows no budgets; Acquire does. It does not wait, and does not
// allocate for an account that exists. The limits may change from call to call;
// an account takes new ones over without a fresh burst.
func (l *Limiter) Reserve(caller, key string, limits Limits, rows int64) (Reservation, error) {
	// What never passes leaves no trace.
	if err := limits.never(&Cost{Rows: rows}); err != nil {
		return Reservation{}, err
	}
	s := l.shard(caller)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	a, err := s.open(name{caller, key}, limits, now)
	if err != nil {
		return Reservation{}, err
	}
	if err := a.take(1, float64(rows), now); err != nil {
		return Reservation{}, err
	}
	return Reservation{shard: s, account: a, rows: rows}, nil
}

// Stats is what a Limiter keeps account of.
type Stats struct {
	// Callers is the number of accounts.
	Callers int
	// Streams is the number of open streams.
	Streams int64
	// Forgotten counts the accounts that made room for others.
	Forgotten uint64
	// Leases is the number of accounts of which this replica holds something that
	// it took from the store.
	Leases int
	// RoundTrips and StoreFailures count those to the store, and those of them that
	// failed.
	RoundTrips, StoreFailures uint64
}

// Stats counts; it locks one part of the Limiter after the other.
func (l *Limiter) Stats() Stats {
	var total Stats
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		total.Callers += len(s.accounts)
		total.Streams += s.streams
		total.Forgotten += s.forgotten
		for a := range s.active {
			if a.shared.held != (Amounts{}) {
				total.Leases++
			}
		}
		s.mu.Unlock()
	}
	total.RoundTrips, total.StoreFailures = l.trips.Load(), l.breaker.failures.Load()
	return total
}

// StoreAway is since when the store does not answer, and why; zero and nil while
// it does, or where there is none.
func (l *Limiter) StoreAway() (time.Time, error) {
	if away := l.breaker.away(); away != nil {
		return away.since, away.err
	}
	return time.Time{}, nil
}
