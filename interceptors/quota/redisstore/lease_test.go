//go:build redis

package redisstore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

// half is a lease that shows.
var half = quota.Lease{Share: 0.5, Duration: time.Hour}

// slow are limits that gain nothing while a test runs.
var slow = quota.Limits{
	RequestsPerSecond: 1e-6, RequestBurst: 100, RowsPerSecond: 1e-6, RowBurst: 1000, MaxRowsPerRequest: 1000, MaxStreams: 2,
}

// use acquires one row after the other until it is refused, and returns how many
// there were.
func use(t *testing.T, l *quota.Limiter, limits quota.Limits) int {
	t.Helper()
	for n := range 10_000 {
		_, err := l.Acquire(t.Context(), "a", "role", &limits, quota.Cost{Rows: 1}, nil)
		if _, ok := errors.AsType[*quota.Exceeded](err); ok {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("never refused")
	return 0
}

// eventually waits until what another goroutine does has come about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestLeaseBoundsWhatOneReplicaHolds(t *testing.T) {
	server := redistest.Start(t)
	first := limiter(t, quota.Config{Store: open(t, redisstore.Config{}, server.Address), Lease: half})
	second := limiter(t, quota.Config{Store: open(t, redisstore.Config{}, server.Address), Lease: noLease})
	acquire(t, first, slow, quota.Cost{})
	if n := first.Stats().Leases; n != 1 {
		t.Errorf("%d leases", n)
	}
	if n := use(t, second, slow); n != 49 {
		t.Errorf("%d requests left for another replica of 100, 1 used and 50 held", n)
	}
	if n := use(t, first, slow); n != 50 {
		t.Errorf("%d requests held", n)
	}
}

func TestUnusedLeaseIsGivenBack(t *testing.T) {
	server := redistest.Start(t)
	limits := slow
	limits.Day.Rows = 1000
	second := limiter(t, quota.Config{Store: open(t, redisstore.Config{}, server.Address), Lease: noLease})
	first := limiter(t, quota.Config{
		Store: open(t, redisstore.Config{}, server.Address), Lease: quota.Lease{Share: 0.5, Duration: 50 * time.Millisecond},
	})
	acquire(t, first, limits, quota.Cost{})
	eventually(t, "the lease is given back", func() bool { return first.Stats().Leases == 0 })
	if n := use(t, second, limits); n != 99 {
		t.Errorf("%d requests left of 100, 1 used", n)
	}

	third := quota.New(quota.Config{Store: open(t, redisstore.Config{}, server.Address), Lease: half})
	if _, err := third.Acquire(t.Context(), "b", "role", &limits, quota.Cost{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := third.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; n < 1000; n++ {
		if _, err := second.Acquire(t.Context(), "b", "role", &limits, quota.Cost{}, nil); err != nil {
			break
		}
	}
	if n != 99 {
		t.Errorf("%d requests left of 100 after a replica with a lease has ended", n)
	}
}

// What costs more than a lease, or more than is left beside it, is one round trip.
func TestCallLargerThanItsLease(t *testing.T) {
	server := redistest.Start(t)
	l := limiter(t, quota.Config{Store: open(t, redisstore.Config{}, server.Address), Lease: half})
	acquire(t, l, slow, quota.Cost{Rows: 100})
	acquire(t, l, slow, quota.Cost{Rows: 900}) // of which 500 are held and 400 are not
	if e := refused(t, l, slow, quota.Cost{Rows: 1}); e.Limit != quota.Rows {
		t.Errorf("%+v", e)
	}
	if e := refused(t, l, slow, quota.Cost{Rows: 1001}); e.Limit != quota.RowsPerRequest || e.RetryAfter != 0 {
		t.Errorf("more than the burst: %+v", e)
	}
	limits := slow
	limits.Month.Rows, limits.Day.Bytes = 50, 60
	if e := refused(t, l, limits, quota.Cost{Rows: 51}); e.Limit != quota.MonthRows || e.RetryAfter != 0 || e.Max != 50 {
		t.Errorf("more than the budget: %+v", e)
	}
	if e := refused(t, l, limits, quota.Cost{Bytes: 61}); e.Limit != quota.DayBytes || e.RetryAfter != 0 {
		t.Errorf("more than the budget: %+v", e)
	}
}

// The lease of a day is worth nothing on the next, and what is given back to it
// neither.
func TestPeriodEndsUnderALease(t *testing.T) {
	server := redistest.Start(t)
	c := newClock("2030-05-15T23:59:59Z")
	l := limiter(t, quota.Config{Now: c.Now, Lease: half, Store: open(t, redisstore.Config{Now: c.Now}, server.Address)})
	limits := plenty
	limits.Day.Rows = 100
	old := acquire(t, l, limits, quota.Cost{Rows: 10})
	older := acquire(t, l, limits, quota.Cost{Rows: 10})
	c.advance(time.Second)
	old.Refund(10)
	acquire(t, l, limits, quota.Cost{Rows: 20})
	older.Refund(10)
	if n := use(t, l, limits); n != 80 {
		t.Errorf("%d rows on a new day of 100 after 20", n)
	}
	c.advance(12 * time.Hour)
	e := refused(t, l, limits, quota.Cost{Rows: 1})
	if e.Limit != quota.DayRows || e.Max != 100 || e.RetryAfter != 12*time.Hour {
		t.Errorf("%+v", e)
	}
}

// Rows and time that a call reserved and did not use come back; bytes sent and time
// beyond the estimate are charged afterwards.
func TestBudgetIsSettled(t *testing.T) {
	server := redistest.Start(t)
	store := open(t, redisstore.Config{}, server.Address)
	limits := plenty
	limits.Month = quota.Budget{Rows: 1000, Bytes: 10_000, ModelTime: time.Second}
	l := quota.New(quota.Config{Store: store, Lease: half, Timeout: time.Second})
	r := acquire(t, l, limits, quota.Cost{Rows: 100, Bytes: 1000})
	r.Spend(40, 100*time.Millisecond)
	r.Refund(10)
	r.Sent(500)
	r.Close()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, err := store.Exchange(t.Context(), &quota.Exchange{Account: quota.Account{Caller: "a", Key: "role"}, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	want := [3]float64{1000 - 40, 10_000 - 1500, 1e6 - 100_000}
	if got := [3]float64(a.Left[quota.KindMonthRows:]); got != want {
		t.Errorf("left %v, want %v", got, want)
	}
}

// Model time goes over by what is running when it is used up, and no more: the next
// call is refused.
func TestModelTimeIsHeldAfterwards(t *testing.T) {
	l := limiter(t, quota.Config{Store: open(t, redisstore.Config{}, redistest.Start(t).Address), Lease: half})
	limits := plenty
	limits.Day.ModelTime = time.Second
	first, second := acquire(t, l, limits, quota.Cost{Rows: 1}), acquire(t, l, limits, quota.Cost{Rows: 1})
	first.Spend(1, 900*time.Millisecond)
	second.Spend(1, 900*time.Millisecond)
	if e := refused(t, l, limits, quota.Cost{Rows: 1}); e.Limit != quota.DayTime || e.RetryAfter <= 0 || e.RetryAfter > 24*time.Hour {
		t.Errorf("%+v", e)
	}
}

// A policy that changes in the middle gives no fresh burst, and holds at once.
func TestLimitsChangeUnderALease(t *testing.T) {
	server := redistest.Start(t)
	l := limiter(t, quota.Config{Store: open(t, redisstore.Config{}, server.Address), Lease: half})
	limits := slow
	limits.Day.Rows = 100
	for range 60 {
		acquire(t, l, limits, quota.Cost{Rows: 1})
	}
	more := limits
	more.RequestBurst, more.Day.Rows = 1000, 70
	if n := use(t, l, more); n != 10 {
		t.Errorf("%d rows after 60 of a budget that is now 70", n)
	}
	more.Day.Rows = 0
	if n := use(t, l, more); n != 30 {
		t.Errorf("%d requests after 70 of 100; the new burst of 1000 must not be full at once", n)
	}
}

// Accounts are bounded, and one that holds something is not forgotten.
func TestAccountWithALeaseIsKept(t *testing.T) {
	server := redistest.Start(t)
	c := newClock("2030-05-15T12:00:00Z")
	l := limiter(t, quota.Config{
		Now: c.Now, MaxCallers: 1, Lease: quota.Lease{Share: 0.5, Duration: time.Minute},
		Store: open(t, redisstore.Config{}, server.Address),
	})
	acquire(t, l, plenty, quota.Cost{Rows: 1})
	c.advance(time.Second) // its buckets are full again, and it holds a lease
	_, err := l.Acquire(t.Context(), "b", "role", &plenty, quota.Cost{}, nil)
	if e, ok := errors.AsType[*quota.Exceeded](err); !ok || e.Limit != quota.Callers {
		t.Fatalf("forgotten with a lease: %v", err)
	}
	c.advance(time.Minute)
	eventually(t, "the lease ends and the account makes room", func() bool {
		_, err := l.Acquire(t.Context(), "b", "role", &plenty, quota.Cost{}, nil)
		return err == nil
	})
}

func TestStreamsOfAllReplicas(t *testing.T) {
	server := redistest.Start(t)
	c := newClock("2030-05-15T12:00:00Z")
	var replicas []*quota.Limiter
	for i := range 3 {
		replicas = append(replicas, limiter(t, quota.Config{
			Store: open(t, redisstore.Config{Now: c.Now, Replica: fmt.Sprint(i)}, server.Address),
			Lease: quota.Lease{Duration: 40 * time.Millisecond},
		}))
	}
	tryOpen := func(i int) (*quota.Stream, error) {
		return replicas[i].AcquireStream(t.Context(), "a", "role", &typical)
	}
	var open [2]*quota.Stream
	for i := range open {
		var err error
		if open[i], err = tryOpen(i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range replicas {
		_, err := tryOpen(i)
		if e, ok := errors.AsType[*quota.Exceeded](err); !ok || e.Limit != quota.Streams || e.Max != 2 {
			t.Errorf("replica %d: a third stream of 2: %v", i, err)
		}
	}
	open[0].Close()
	var third *quota.Stream
	eventually(t, "a place is free elsewhere", func() bool {
		var err error
		third, err = tryOpen(2)
		return err == nil
	})
	third.Close()

	// A replica that dies says nothing more; its streams count for a while.
	dead := openAt(t, server, c)
	if taken, err := dead.Places(t.Context(), quota.Account{Caller: "b", Key: "role"}, 2, 2); err != nil || !taken {
		t.Fatal(taken, err)
	}
	other := quota.Account{Caller: "b", Key: "role"}
	s := openAt(t, server, c)
	c.advance(quota.PlacesTTL - time.Millisecond)
	if taken, err := s.Places(t.Context(), other, 1, 2); err != nil || taken {
		t.Errorf("taken %v while the dead one counts (%v)", taken, err)
	}
	c.advance(2 * time.Millisecond)
	if taken, err := s.Places(t.Context(), other, 1, 2); err != nil || !taken {
		t.Errorf("taken %v after the dead one has ceased to count (%v)", taken, err)
	}
}

// openAt is a store of another replica, by the same clock.
func openAt(t *testing.T, server *redistest.Server, c *clock) *redisstore.Store {
	t.Helper()
	return open(t, redisstore.Config{Now: c.Now}, server.Address)
}
