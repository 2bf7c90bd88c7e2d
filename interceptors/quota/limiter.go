// Package quota limits how much each caller may use: requests and rows by the
// second, rows in one request, and open streams. All state is in memory and
// bounded, however many callers there are.
package quota

import (
	"hash/maphash"
	"time"
)

// Limits is how much one caller may use. The zero value allows nothing.
type Limits struct {
	// RequestsPerSecond is the rate of calls and messages of a stream.
	RequestsPerSecond float64
	// RequestBurst is the most calls and messages at once.
	RequestBurst int64
	// RowsPerSecond is the rate of rows.
	RowsPerSecond float64
	// RowBurst is the most rows at once.
	RowBurst int64
	// MaxRowsPerRequest is the most rows in one request or batch.
	MaxRowsPerRequest int64
	// MaxStreams is the most streams open at the same time.
	MaxStreams int64
}

// Config is the setting of a Limiter. The zero value is usable.
type Config struct {
	// MaxCallers is how many accounts (pairs of caller and key) are kept; 100,000
	// if 0. Each takes about 300 bytes beside the names.
	MaxCallers int
	// Idle is how long an account that says nothing more is kept for the case that
	// its caller comes back, while there is room; a minute if 0.
	Idle time.Duration
	// Now is the clock; time.Now if nil.
	Now func() time.Time
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
}

// New returns a Limiter without any account.
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
	}
	return l
}

func (l *Limiter) shard(caller string) *shard {
	return &l.shards[maphash.String(l.seed, caller)%uint64(len(l.shards))]
}

// Reserve takes one request and the rows from the account of caller and key, or
// nothing: then the error is an *Exceeded. It does not wait, and does not
// allocate for an account that exists. The limits may change from call to call;
// an account takes new ones over without a fresh burst.
func (l *Limiter) Reserve(caller, key string, limits Limits, rows int64) (Reservation, error) {
	// What never passes leaves no trace.
	if most := min(limits.MaxRowsPerRequest, limits.RowBurst); rows < 0 || rows > most {
		return Reservation{}, &Exceeded{Limit: RowsPerRequest, Max: most}
	}
	if limits.RequestBurst < 1 {
		return Reservation{}, &Exceeded{Limit: Requests, Max: limits.RequestBurst}
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
		s.mu.Unlock()
	}
	return total
}
