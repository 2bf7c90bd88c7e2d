//go:build redis

package redisstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

// watched is a limiter that tells when its store goes and comes.
type watched struct {
	*quota.Limiter
	changes chan error
}

func watch(t *testing.T, cfg quota.Config, address string) watched {
	w := watched{changes: make(chan error, 16)}
	cfg.StoreChanged = func(err error) { w.changes <- err }
	cfg.Store = open(t, redisstore.Config{Timeout: cfg.Timeout}, address)
	w.Limiter = limiter(t, cfg)
	return w
}

// change waits for the store to go, or to come back.
func (w watched) change(t *testing.T, away bool) {
	t.Helper()
	select {
	case err := <-w.changes:
		if (err != nil) != away {
			t.Fatalf("the store changed to %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed")
	}
	since, err := w.StoreAway()
	if since.IsZero() == away || (err != nil) != away {
		t.Errorf("away since %v: %v", since, err)
	}
}

func TestRefuseWhileTheStoreIsAway(t *testing.T) {
	server := redistest.Start(t)
	p := redistest.NewProxy(t, server.Address)
	w := watch(t, quota.Config{Lease: half, Timeout: 200 * time.Millisecond}, p.Address)
	acquire(t, w.Limiter, slow, quota.Cost{Rows: 1})
	p.Cut()
	for range 20 { // what is held can be used
		acquire(t, w.Limiter, slow, quota.Cost{Rows: 1})
	}
	for range 3 {
		unavailable(t, w.Limiter, slow, quota.Cost{Rows: 900})
	}
	w.change(t, true)
	unavailable(t, w.Limiter, slow, quota.Cost{Rows: 900})
	if _, err := w.AcquireStream(t.Context(), "a", "role", &slow); !errors.As(err, new(*quota.Unavailable)) {
		t.Errorf("a stream: %v", err)
	}
	p.Mend()
	w.change(t, false)
	acquire(t, w.Limiter, slow, quota.Cost{Rows: 1})
	select {
	case err := <-w.changes:
		t.Errorf("told again: %v", err)
	default:
	}
}

func TestCountAloneWhileTheStoreIsAway(t *testing.T) {
	server := redistest.Start(t)
	p := redistest.NewProxy(t, server.Address)
	w := watch(t, quota.Config{Lease: noLease, Timeout: 200 * time.Millisecond}, p.Address)
	limits := slow
	limits.Alone, limits.Day.Rows = true, 50
	for range 30 {
		acquire(t, w.Limiter, limits, quota.Cost{Rows: 1})
	}
	p.Cut()
	if n := use(t, w.Limiter, limits); n != 70 { // and no fresh burst; the budget is not enforced
		t.Errorf("%d requests of 100 after 30", n)
	}
	for i := range 3 {
		_, err := w.AcquireStream(t.Context(), "a", "role", &limits)
		if (err != nil) != (i == 2) {
			t.Errorf("stream %d of 2: %v", i+1, err)
		}
	}
	w.change(t, true)
	p.Mend()
	w.change(t, false)
	// What was used meanwhile counts for the budget from then on.
	limits.RequestBurst, limits.RequestsPerSecond = 1e6, 1e6
	store := open(t, redisstore.Config{}, server.Address)
	eventually(t, "the use is charged", func() bool {
		a, err := store.Exchange(t.Context(), &quota.Exchange{Account: quota.Account{Caller: "a", Key: "role"}, Limits: limits})
		return err == nil && a.Left[quota.KindDayRows] == -50
	})
	if e := refused(t, w.Limiter, limits, quota.Cost{Rows: 1}); e.Limit != quota.DayRows {
		t.Errorf("%+v", e)
	}
}

// What was taken of the count of this replica alone goes back there: the store has
// never given it.
func TestRefundOfWhatWasTakenAlone(t *testing.T) {
	server := redistest.Start(t)
	p := redistest.NewProxy(t, server.Address)
	w := watch(t, quota.Config{Lease: noLease, Timeout: 200 * time.Millisecond}, p.Address)
	limits := slow
	limits.Alone = true
	acquire(t, w.Limiter, limits, quota.Cost{Rows: 500})
	p.Cut()
	var alone quota.Reservation
	for range 3 {
		r := acquire(t, w.Limiter, limits, quota.Cost{Rows: 100})
		alone.Join(&r)
	}
	w.change(t, true)
	alone.Refund(300)
	p.Mend()
	w.change(t, false)
	acquire(t, w.Limiter, limits, quota.Cost{Rows: 1}) // and all that is to go back has gone
	if e := refused(t, w.Limiter, limits, quota.Cost{Rows: 500}); e.Limit != quota.Rows {
		t.Errorf("%+v", e)
	}
}

// A store that hangs costs its timeout a few times; then calls fail at once,
// however many there are.
func TestHangingStoreHoldsNobodyUp(t *testing.T) {
	server := redistest.Start(t)
	const timeout = 300 * time.Millisecond
	w := watch(t, quota.Config{Lease: noLease, Timeout: timeout}, server.Address)
	acquire(t, w.Limiter, plenty, quota.Cost{})
	server.Hang()
	began := time.Now()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := w.Acquire(t.Context(), "a", "role", &plenty, quota.Cost{}, nil)
			if !errors.As(err, new(*quota.Unavailable)) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 8*timeout {
		t.Errorf("50 calls at once took %v, the timeout is %v", took, timeout)
	}
	w.change(t, true)
	began = time.Now()
	for range 1000 {
		unavailable(t, w.Limiter, plenty, quota.Cost{})
	}
	if took := time.Since(began); took > timeout {
		t.Errorf("1000 calls of a store that is known to hang took %v", took)
	}
	server.Resume()
	w.change(t, false)
	acquire(t, w.Limiter, plenty, quota.Cost{})
}

// A call that was cancelled does not wait for the round trip of another.
func TestCancelledWhileWaiting(t *testing.T) {
	server := redistest.Start(t)
	l := limiter(t, quota.Config{
		MaxCallers: 100, // all under one lock
		Lease:      noLease, Timeout: 5 * time.Second, Store: open(t, redisstore.Config{Timeout: 5 * time.Second}, server.Address),
	})
	acquire(t, l, plenty, quota.Cost{})
	server.Hang()
	trips := l.Stats().RoundTrips
	first := make(chan error, 1)
	go func() {
		_, err := l.Acquire(t.Context(), "a", "role", &plenty, quota.Cost{}, nil)
		first <- err
	}()
	eventually(t, "the first is under way", func() bool { return l.Stats().RoundTrips > trips })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Acquire(ctx, "a", "role", &plenty, quota.Cost{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the one that waits: %v", err)
	}
	if _, err := l.Reserve("another", "role", plenty, 0); err != nil { // no lock is held meanwhile
		t.Error(err)
	}
	server.Resume()
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// What is not known to have been done gives the caller nothing: neither comes a
// lease back twice, nor is used what was taken without an answer.
func TestLostAnswers(t *testing.T) {
	server := redistest.Start(t)
	p := redistest.NewProxy(t, server.Address)
	w := watch(t, quota.Config{Lease: half, Timeout: time.Second}, p.Address)
	limits := plenty
	limits.Day.Rows = 100
	acquire(t, w.Limiter, limits, quota.Cost{Rows: 1}) // and 49 are held
	other := limiter(t, quota.Config{Store: open(t, redisstore.Config{}, server.Address), Lease: noLease})
	acquire(t, other, limits, quota.Cost{Rows: 45})
	p.LoseNextReply() // to a call that gives the 49 back, and is refused
	unavailable(t, w.Limiter, limits, quota.Cost{Rows: 80})
	if n := use(t, w.Limiter, limits); n != 54 {
		t.Errorf("%d rows after 46 of a budget of 100", n)
	}

	p.LoseNextReply()
	limits.Day.Rows = 200 // the lease goes back with the next call, which takes 30
	unavailable(t, w.Limiter, limits, quota.Cost{Rows: 30})
	if n := use(t, w.Limiter, limits); n > 70 || n < 30 {
		t.Errorf("%d rows after 100 of a budget of 200, 30 and half of the rest lost", n)
	}
}
