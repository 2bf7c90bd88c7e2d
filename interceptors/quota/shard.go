package quota

import (
	"container/heap"
	"sync"
	"time"
)

// shard is a part of the accounts, under a lock of its own.
type shard struct {
	limiter *Limiter

	mu        sync.Mutex // guards what follows, and the accounts
	accounts  map[name]*account
	byFull    byFull                // the accounts, as a heap
	active    map[*account]struct{} // those that the keeper looks at
	streams   int64
	forgotten uint64
}

// looks bounds what one new account may cost those who wait for the lock.
const looks = 32

// now is the time since the Limiter began.
func (s *shard) now() time.Duration { return s.limiter.now().Sub(s.limiter.epoch) }

// open returns the account under the limits given, a new one if there is none.
func (s *shard) open(n name, limits Limits, now time.Duration) (*account, error) {
	if a := s.accounts[n]; a != nil {
		if a.limits != limits {
			a.adopt(limits, now)
			s.moved(a)
		}
		return a, nil
	}
	limit := s.limiter.maxCallers / len(s.limiter.shards)
	s.forget(now - s.limiter.idle)
	if len(s.accounts) >= limit {
		s.forget(now)
	}
	if len(s.accounts) >= limit {
		e := &Exceeded{Limit: Callers, Max: int64(s.limiter.maxCallers)}
		if first := s.byFull[0].fullAt; first < long {
			e.RetryAfter = max(0, first-now)
		}
		return nil, e
	}
	a := newAccount(n, limits, now)
	if s.limiter.store != nil {
		a.shared = &shared{shard: s, most: s.limiter.lease.most(&limits)}
	}
	s.accounts[n] = a
	heap.Push(&s.byFull, a)
	return a, nil
}

// moved puts the account where it belongs in the heap. It must be called after
// a change that may have made the account full earlier.
func (s *shard) moved(a *account) {
	if a.index == gone {
		return // a reservation has outlived its account, which was full
	}
	a.fullAt = a.full()
	heap.Fix(&s.byFull, a.index)
}

// forget drops accounts that were full by then. More than one, so that what a
// flood has left is gone soon after it.
func (s *shard) forget(then time.Duration) {
	for range looks {
		if len(s.byFull) == 0 {
			return
		}
		first := s.byFull[0]
		s.moved(first)
		switch {
		case first.fullAt <= then:
			heap.Remove(&s.byFull, first.index)
			first.index = gone
			delete(s.accounts, first.name)
			s.forgotten++
		case s.byFull[0] == first:
			return
		}
	}
}

// byFull is a heap.Interface with the account that is full first on top.
type byFull []*account

func (h byFull) Len() int           { return len(h) }
func (h byFull) Less(i, j int) bool { return h[i].fullAt < h[j].fullAt }
func (h byFull) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *byFull) Push(x any) {
	a := x.(*account)
	a.index = len(*h)
	*h = append(*h, a)
}

func (h *byFull) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return a
}
