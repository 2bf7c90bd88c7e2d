//go:build redis

package redisstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that moves when told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock(at string) *clock {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	return &clock{now: t}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// open is a store at the address, closed with the test.
func open(tb testing.TB, cfg redisstore.Config, address string) *redisstore.Store {
	tb.Helper()
	cfg.Addresses = []string{address}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second // the machine of a test may be busy
	}
	s, err := redisstore.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// limiter is one over the store, closed with the test.
func limiter(tb testing.TB, cfg quota.Config) *quota.Limiter {
	tb.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	l := quota.New(cfg)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// typical is 10 requests and 100 rows a second.
var typical = quota.Limits{
	RequestsPerSecond: 10, RequestBurst: 5, RowsPerSecond: 100, RowBurst: 200, MaxRowsPerRequest: 150, MaxStreams: 2,
}

// plenty is more than any test uses.
var plenty = quota.Limits{
	RequestsPerSecond: 1e6, RequestBurst: 1e6, RowsPerSecond: 1e9, RowBurst: 1e9, MaxRowsPerRequest: 1e9, MaxStreams: 100,
}

func acquire(t *testing.T, l *quota.Limiter, limits quota.Limits, cost quota.Cost) quota.Reservation {
	t.Helper()
	r, err := l.Acquire(t.Context(), "a", "role", &limits, cost, nil)
	if err != nil {
		t.Fatalf("%+v refused: %v", cost, err)
	}
	return r
}

func refused(t *testing.T, l *quota.Limiter, limits quota.Limits, cost quota.Cost) quota.Exceeded {
	t.Helper()
	_, err := l.Acquire(t.Context(), "a", "role", &limits, cost, nil)
	e, ok := errors.AsType[*quota.Exceeded](err)
	if !ok {
		t.Fatalf("not refused by a limit: %v", err)
	}
	return *e
}

func unavailable(t *testing.T, l *quota.Limiter, limits quota.Limits, cost quota.Cost) {
	t.Helper()
	_, err := l.Acquire(t.Context(), "a", "role", &limits, cost, nil)
	if _, ok := errors.AsType[*quota.Unavailable](err); !ok {
		t.Fatalf("not unavailable: %v", err)
	}
}

// noLease asks the store each time.
var noLease = quota.Lease{Share: -1}

var account = quota.Account{Caller: "spiffe://td.test/a", Key: "role"}

func exchange(t *testing.T, s *redisstore.Store, x quota.Exchange) quota.Answer {
	t.Helper()
	if x.Account == (quota.Account{}) {
		x.Account = account
	}
	a, err := s.Exchange(t.Context(), &x)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
