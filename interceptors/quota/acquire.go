package quota

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Unavailable is the error of what needs the store while it does not answer, by
// limits that say so. It does not unwrap: an io.EOF of the store's connection is not
// the end of the caller's stream, nor a timeout there the caller's deadline.
type Unavailable struct {
	// Err is what the store said last.
	Err error
}

// Error says what the matter is.
func (e *Unavailable) Error() string {
	return fmt.Sprintf("the store of quotas does not answer: %v", e.Err)
}

// Acquire takes one request and the cost from the account of caller and key, as
// all replicas keep it, or nothing: then the error is an *Exceeded or an
// *Unavailable. How the account stands then is left in standing, unless that is
// nil. Without a Store it is Reserve.
//
// What the lease covers, and what is known to be refused, costs no round trip.
// Else it blocks for one, or for that of another call of the account, no longer
// than ctx and the store's timeout. What is acquired within any time is at most
// what the limits give in it, and what replicas held before as leases.
func (l *Limiter) Acquire(ctx context.Context, caller, key string, limits *Limits, cost Cost, standing *Standing) (Reservation, error) {
	if err := limits.never(&cost); err != nil {
		return Reservation{}, err
	}
	s := l.shard(caller)
	for {
		r, wait, err := s.acquire(ctx, name{caller, key}, limits, cost, standing)
		if wait == nil {
			return r, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return Reservation{}, ctx.Err()
		}
	}
}

// never refuses what no waiting would help.
func (l *Limits) never(c *Cost) error {
	if most := min(l.MaxRowsPerRequest, l.RowBurst); c.Rows < 0 || c.Rows > most {
		return &Exceeded{Limit: RowsPerRequest, Max: most}
	}
	if l.RequestBurst < 1 {
		return &Exceeded{Limit: Requests, Max: l.RequestBurst}
	}
	for i, b := range [...]*Budget{&l.Day, &l.Month} {
		if b.Rows > 0 && c.Rows > b.Rows {
			return &Exceeded{Limit: (KindDayRows + Kind(3*i)).limit(), Max: b.Rows}
		}
		if b.Bytes > 0 && c.Bytes > b.Bytes {
			return &Exceeded{Limit: (KindDayBytes + Kind(3*i)).limit(), Max: b.Bytes}
		}
	}
	return nil
}

// acquire is one try. It returns a channel instead if it has to wait for it and
// try again.
func (s *shard) acquire(ctx context.Context, n name, limits *Limits, cost Cost, standing *Standing) (Reservation, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	a, err := s.open(n, *limits, now)
	if err != nil {
		return Reservation{}, nil, err
	}
	if s.limiter.store == nil {
		err := a.take(1, float64(cost.Rows), now)
		a.tell(standing, now, err != nil)
		if err != nil {
			return Reservation{}, nil, err
		}
		return Reservation{shard: s, account: a, rows: cost.Rows}, nil, nil
	}
	need := limits.amounts(cost, a.shared.perRow)
	a.expect(&need, now)
	switch {
	case a.shared.covers(&need, now):
		a.shared.spend(&need)
		s.limiter.keeper.renewSoon(a, now)
	case a.shared.flight != nil:
		return Reservation{}, a.shared.flight, nil
	default:
		if e := a.known(&need, now); e != nil {
			a.tell(standing, now, true)
			return Reservation{}, nil, e
		}
		if err := a.fetch(ctx, &need); err != nil {
			var away *Unavailable
			if !errors.As(err, &away) || !limits.Alone {
				a.tell(standing, s.now(), true)
				return Reservation{}, nil, err
			}
			return a.alone(need, cost, standing)
		}
		now = s.now()
	}
	// Counted here as well, so that the loss of the store gives no fresh burst.
	a.drain(1, float64(cost.Rows), now)
	a.tell(standing, now, false)
	return a.reservation(need, cost), nil, nil
}

// expect lowers the model time that a call is expected to take to what is known to be
// left, if that is any: an estimate by itself refuses nothing. What the call takes is
// charged afterwards.
func (a *account) expect(need *Amounts, now time.Duration) {
	for _, k := range [...]Kind{KindDayTime, KindMonthTime} {
		if left := int64(a.had(k, now)) + a.shared.held[k]; need[k] > left && left > 0 {
			need[k] = left
		}
	}
}

// alone takes from what this replica counts by itself. What budgets have left is
// not known; what is used of them is charged when the store is back.
func (a *account) alone(need Amounts, cost Cost, standing *Standing) (Reservation, <-chan struct{}, error) {
	now := a.shared.shard.now()
	err := a.take(1, float64(cost.Rows), now)
	a.tell(standing, now, err != nil)
	if err != nil {
		return Reservation{}, nil, err
	}
	for k := KindDayRows; k < Kinds; k++ {
		if need[k] > 0 {
			a.charge(k, need[k], now)
		}
	}
	r := a.reservation(need, cost)
	r.alone = true
	return r, nil, nil
}

func (a *account) reservation(need Amounts, cost Cost) Reservation {
	s := a.shared
	return Reservation{
		shard: s.shard, account: a, rows: cost.Rows, budgeted: cost.Rows,
		micros: max(need[KindDayTime], need[KindMonthTime]), day: s.day, month: s.month,
	}
}

// fetch makes the round trip for a call, and with it for all that come meanwhile.
// It is called with the shard's lock held, which it gives up for that time. What
// was needed is taken if the error is nil; else it is an *Exceeded or an
// *Unavailable. That the call has ended does not break it off: what the store has
// taken would be lost.
func (a *account) fetch(ctx context.Context, need *Amounts) error {
	answer, err := a.exchange(ctx, *need, fetching)
	if err != nil {
		return err
	}
	if answer.Passed {
		return nil
	}
	if e := a.refusal(need, a.shared.shard.now()); e != nil {
		return e
	}
	// Refunds and renewals came in since; what is missing is a moment's.
	return &Exceeded{Limit: Requests, Max: a.limits.RequestBurst, RetryAfter: time.Millisecond}
}

// What an exchange is made for.
type purpose uint8

const (
	fetching  purpose = iota // for a call that waits for it
	renewing                 // a lease that is used, ahead of time
	returning                // a lease that is not
)

// exchange makes one round trip for the account, which has none under way. The
// shard's lock is held when it is called and when it returns, and not in between.
func (a *account) exchange(ctx context.Context, need Amounts, why purpose) (Answer, error) {
	s := a.shared
	l := s.shard.limiter
	if err := l.breaker.away(); err != nil {
		return Answer{}, &Unavailable{err.err}
	}
	x := a.prepare(need, why == renewing, why != returning)
	sent := s.shard.now()
	s.flight = make(chan struct{})
	a.settleLater(sent)

	s.shard.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
	l.trips.Add(1)
	answer, err := l.store.Exchange(ctx, x)
	cancel()
	l.breaker.report(err)
	s.shard.mu.Lock()

	close(s.flight)
	s.flight = nil
	now := s.shard.now()
	if err != nil {
		s.lost(x, now)
		s.shard.moved(a)
		return Answer{}, &Unavailable{err}
	}
	a.receive(x, answer, sent, now)
	s.shard.moved(a)
	return answer, nil
}
