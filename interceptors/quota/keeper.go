package quota

import (
	"context"
	"sync"
	"time"
)

// keeper does in the background what no call should wait for: it renews leases
// before they run out, gives those back that are not used, settles what was used
// beyond them, says how many streams are open, and asks whether a store that was
// lost is back.
type keeper struct {
	limiter *Limiter
	work    chan *account
	stop    context.CancelFunc
	done    sync.WaitGroup
}

const (
	// keepers is how many round trips there are in the background at once.
	keepers = 8
	// keeperQueue is how many accounts wait for one; further ones come at the next
	// sweep.
	keeperQueue = 4096
)

func (l *Limiter) startKeeper() {
	ctx, stop := context.WithCancel(context.Background())
	k := &keeper{limiter: l, work: make(chan *account, keeperQueue), stop: stop}
	l.keeper = k
	for range keepers {
		k.done.Go(func() {
			for {
				select {
				case a := <-k.work:
					k.tend(ctx, a)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	k.done.Go(func() {
		// Both often enough that a lease is renewed in its last quarter.
		sweep, probe := time.NewTicker(max(l.lease.Duration/8, time.Millisecond)), time.NewTicker(probeEvery)
		defer sweep.Stop()
		defer probe.Stop()
		for {
			select {
			case <-sweep.C:
				k.sweep()
			case <-probe.C:
				k.probe(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
}

// renewSoon has the account's lease renewed if half of it is used. The shard's
// lock is held.
func (k *keeper) renewSoon(a *account, now time.Duration) {
	s := a.shared
	if s.queued || s.flight != nil || now < s.calm {
		return
	}
	if s.low() {
		k.queue(a)
	}
}

// queue has the account tended to. The shard's lock is held.
func (k *keeper) queue(a *account) {
	select {
	case k.work <- a:
		a.shared.queued = true
	default:
	}
}

// sweep queues the accounts for which it is time.
func (k *keeper) sweep() {
	for i := range k.limiter.shards {
		s := &k.limiter.shards[i]
		s.mu.Lock()
		now := s.now()
		for a := range s.active {
			sh := a.shared
			if sh.empty() && sh.flight == nil && sh.placing == nil && a.streams == 0 || a.index == gone {
				delete(s.active, a)
				continue
			}
			if !sh.queued && (a.due(now) != nothing || a.placesDue(now)) {
				k.queue(a)
			}
		}
		s.mu.Unlock()
	}
}

// nothing is to be done for an account.
const nothing purpose = 255

// due is what is to be done for an account's lease.
func (a *account) due(now time.Duration) purpose {
	s, d := a.shared, a.shared.shard.limiter.lease.Duration
	switch {
	case s.flight != nil:
		return nothing
	case s.used && s.held != (Amounts{}) && now >= s.until-d/4:
		return renewing
	case s.held != (Amounts{}) && now >= s.until:
		return returning
	case s.back != (Amounts{}) && now >= s.last+d/2:
		if s.used {
			return renewing
		}
		return returning
	}
	return nothing
}

// tend does what is to be done for an account.
func (k *keeper) tend(ctx context.Context, a *account) {
	s := a.shared
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	s.queued = false
	if k.limiter.breaker.away() != nil {
		return
	}
	now := s.shard.now()
	if s.flight == nil {
		why := a.due(now)
		if why == nothing && s.used && now >= s.calm && s.low() {
			why = renewing // renewSoon has asked for it
		}
		if why != nothing {
			_, _ = a.exchange(ctx, Amounts{}, why) // the breaker keeps the error
		}
	}
	if a.placesDue(s.shard.now()) {
		_, _ = a.sayPlaces(ctx, a.streams)
	}
}

// probe asks a store that is away whether it is back.
func (k *keeper) probe(ctx context.Context) {
	l := k.limiter
	if l.breaker.away() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	l.breaker.probed(l.store.Probe(ctx))
}

// Close gives back what this replica holds, as far as the store answers and until
// ctx ends, and ends what runs in the background. Nothing may be acquired after it.
func (l *Limiter) Close(ctx context.Context) error {
	if l.keeper == nil {
		return nil
	}
	l.keeper.stop()
	l.keeper.done.Wait()
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for a := range s.active {
			if ctx.Err() != nil || l.breaker.away() != nil {
				break
			}
			if a.shared.flight == nil && (a.shared.held != Amounts{} || a.shared.back != Amounts{}) {
				_, _ = a.exchange(ctx, Amounts{}, returning)
			}
			if a.shared.placing == nil && a.shared.placed > 0 {
				_, _ = a.sayPlaces(ctx, 0)
			}
		}
		clear(s.active)
		s.mu.Unlock()
	}
	return ctx.Err()
}
