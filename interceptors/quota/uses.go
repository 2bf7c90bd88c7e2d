package quota

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
)

// Use is what one account has used of its limits.
type Use struct {
	Account  Account
	Limits   Limits
	Standing Standing
	// Streams are those that are open here.
	Streams int64
	// Held is what this replica holds as a lease, within what is left.
	Held Amounts
}

// Share is the greatest part of a limit that is used, from 0 to 1 and beyond.
func (u *Use) Share() float64 {
	share := 0.0
	if u.Limits.MaxStreams > 0 {
		share = float64(u.Streams) / float64(u.Limits.MaxStreams)
	}
	for k, most := range u.Limits.Most() {
		if most > 0 {
			if !u.Standing.Knows(Kind(k)) {
				continue
			}
			share = max(share, 1-float64(u.Standing.Left[k])/float64(most))
		}
	}
	return share
}

// hidden begins the keys of accounts that are not a caller's limits: such are not
// shown.
const hidden = "\x00"

// Uses are the accounts that match, those first of which most is used, at most n
// of them, and how many more there are. What they have left is what is known here,
// without a round trip. It locks one part of the Limiter after the other.
func (l *Limiter) Uses(n int, match func(Account) bool) (uses []Use, leftOut int) {
	type place struct {
		share float64
		shard *shard
		name  name
	}
	var places []place
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for name, a := range s.accounts {
			if !strings.HasPrefix(name.key, hidden) && match(Account{name.caller, name.key}) {
				u := a.use(s)
				places = append(places, place{u.Share(), s, name})
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(a.name.caller, b.name.caller), cmp.Compare(a.name.key, b.name.key))
	})
	for _, p := range places[:min(n, len(places))] {
		p.shard.mu.Lock()
		if a := p.shard.accounts[p.name]; a != nil { // it may have been forgotten since
			uses = append(uses, a.use(p.shard))
		}
		p.shard.mu.Unlock()
	}
	return uses, max(0, len(places)-n)
}

func (a *account) use(s *shard) Use {
	u := Use{Account: Account{a.name.caller, a.name.key}, Limits: a.limits, Streams: a.streams}
	a.stand(&u.Standing, s.now())
	if a.shared != nil {
		u.Held = a.shared.held
	}
	return u
}

// looksAtOnce bounds how many round trips Look makes at the same time.
const looksAtOnce = 8

// Look asks the store what the accounts of uses have left by the use of all
// replicas, and writes it there. What another replica holds as a lease counts as
// used. It does nothing without a Store, and gives up at the first error.
func (l *Limiter) Look(ctx context.Context, uses []Use) error {
	if l.store == nil {
		return nil
	}
	if away := l.breaker.away(); away != nil {
		return &Unavailable{away.err}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	places := make(chan struct{}, looksAtOnce)
	for i := range uses {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			if err := l.look(ctx, &uses[i]); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

func (l *Limiter) look(ctx context.Context, u *Use) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	l.trips.Add(1)
	answer, err := l.store.Exchange(ctx, &Exchange{Account: u.Account, Limits: u.Limits})
	if err != nil {
		return err
	}
	u.Standing.Known, u.Standing.Budgets = true, true
	for k, left := range answer.Left {
		kind := Kind(k)
		u.Standing.Left[k] = min(max(0, int64(left)+u.Held[k]), u.Limits.Most()[k])
		switch {
		case kind.day() && u.Limits.Most()[k] > 0:
			u.Standing.Reset[k] = answer.DayEnds
		case kind.month() && u.Limits.Most()[k] > 0:
			u.Standing.Reset[k] = answer.MonthEnds
		}
	}
	return nil
}
