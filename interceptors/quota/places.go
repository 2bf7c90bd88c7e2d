package quota

import (
	"context"
	"time"
)

// AcquireStream counts a stream of caller and key, among those of all replicas,
// until its Close; the error is an *Exceeded or an *Unavailable. Without a Store
// it is OpenStream. A replica that does not reach the store for PlacesTTL is not
// counted by the others: then as many streams as it has open are open more.
func (l *Limiter) AcquireStream(ctx context.Context, caller, key string, limits *Limits) (*Stream, error) {
	if l.store == nil || limits.MaxStreams < 1 {
		return l.OpenStream(caller, key, *limits)
	}
	s := l.shard(caller)
	for {
		st, wait, err := s.acquireStream(ctx, name{caller, key}, limits)
		if wait == nil {
			return st, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *shard) acquireStream(ctx context.Context, n name, limits *Limits) (*Stream, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.open(n, *limits, s.now())
	if err != nil {
		return nil, nil, err
	}
	exceeded := &Exceeded{Limit: Streams, Max: limits.MaxStreams}
	switch {
	case a.streams >= limits.MaxStreams:
		return nil, nil, exceeded
	case a.shared.placing != nil:
		return nil, a.shared.placing, nil
	case a.streams >= a.shared.placed || a.shared.unsure:
		taken, err := a.sayPlaces(ctx, a.streams+1)
		switch {
		case err != nil && !limits.Alone:
			return nil, nil, err
		case err == nil && !taken:
			return nil, nil, exceeded
		case a.streams >= limits.MaxStreams: // none was closed meanwhile, nor opened: placing keeps them out
			return nil, nil, exceeded
		}
	}
	a.streams++
	s.streams++
	a.settleLater(s.now())
	return &Stream{shard: s, account: a}, nil, nil
}

// placesDue tells whether the store is to be told of the account's streams: they
// are fewer than it knows, or it would soon forget them.
func (a *account) placesDue(now time.Duration) bool {
	s := a.shared
	if s.placing != nil {
		return false
	}
	return s.placed > a.streams || a.streams > 0 && now >= s.saidPlaces+PlacesTTL/3
}

// sayPlaces tells the store how many streams are open here. The shard's lock is
// held when it is called and when it returns, and not in between.
func (a *account) sayPlaces(ctx context.Context, places int64) (bool, error) {
	s := a.shared
	l := s.shard.limiter
	if away := l.breaker.away(); away != nil {
		return false, &Unavailable{away.err}
	}
	s.placing = make(chan struct{})
	said, most := s.shard.now(), a.limits.MaxStreams
	a.settleLater(said)

	s.shard.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
	l.trips.Add(1)
	taken, err := l.store.Places(ctx, Account{a.name.caller, a.name.key}, places, most)
	cancel()
	l.breaker.report(err)
	s.shard.mu.Lock()

	close(s.placing)
	s.placing = nil
	s.shard.moved(a)
	if err != nil {
		// It may have been done. The next time it is said anew, and so put right.
		s.placed, s.unsure = max(s.placed, places), true
		s.saidPlaces = said - PlacesTTL
		return false, &Unavailable{err}
	}
	s.saidPlaces = said
	if taken {
		s.placed, s.unsure = places, false
	}
	return taken, nil
}
