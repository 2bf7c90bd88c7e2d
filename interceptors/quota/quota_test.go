package quota_test

import (
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// clock is a clock that moves when told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_700_000_000, 0)} }

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

// typical is the limits of the tests that need no others: 10 requests a second,
// 100 rows a second.
var typical = quota.Limits{
	RequestsPerSecond: 10, RequestBurst: 5, RowsPerSecond: 100, RowBurst: 200, MaxRowsPerRequest: 150, MaxStreams: 2,
}

func reserve(t *testing.T, l *quota.Limiter, caller string, limits quota.Limits, rows int64) quota.Reservation {
	t.Helper()
	r, err := l.Reserve(caller, "role", limits, rows)
	if err != nil {
		t.Fatalf("%d rows refused: %v", rows, err)
	}
	return r
}

// refused is why the reservation is refused.
func refused(t *testing.T, l *quota.Limiter, caller string, limits quota.Limits, rows int64) quota.Exceeded {
	t.Helper()
	_, err := l.Reserve(caller, "role", limits, rows)
	return exceeded(t, err)
}

func exceeded(t *testing.T, err error) quota.Exceeded {
	t.Helper()
	e, ok := errors.AsType[*quota.Exceeded](err)
	if !ok {
		t.Fatalf("not refused by a limit: %v", err)
	}
	return *e
}

func wantExceeded(t *testing.T, got, want quota.Exceeded) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refusal (-want +got):\n%s", diff)
	}
}

func TestReserveRequests(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{Now: c.Now})
	for range 5 {
		reserve(t, l, "a", typical, 0)
	}
	wantExceeded(t, refused(t, l, "a", typical, 0), quota.Exceeded{Limit: quota.Requests, Max: 5, RetryAfter: 100 * time.Millisecond})
	c.advance(40 * time.Millisecond)
	wantExceeded(t, refused(t, l, "a", typical, 0), quota.Exceeded{Limit: quota.Requests, Max: 5, RetryAfter: 60 * time.Millisecond})
	reserve(t, l, "b", typical, 0) // another caller has its own
	if _, err := l.Reserve("a", "other roles", typical, 0); err != nil {
		t.Errorf("another key has its own: %v", err)
	}
	c.advance(60 * time.Millisecond)
	reserve(t, l, "a", typical, 0)
	refused(t, l, "a", typical, 0)
	c.advance(time.Hour)
	for range 5 { // the burst, not an hour's worth
		reserve(t, l, "a", typical, 0)
	}
	refused(t, l, "a", typical, 0)
}

func TestReserveRows(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{Now: c.Now})
	reserve(t, l, "a", typical, 150)
	wantExceeded(t, refused(t, l, "a", typical, 60), quota.Exceeded{Limit: quota.Rows, Max: 200, RetryAfter: 100 * time.Millisecond})
	for range 4 { // what is refused takes neither requests nor rows
		reserve(t, l, "a", typical, 12)
	}
	wantExceeded(t, refused(t, l, "a", typical, 2), quota.Exceeded{Limit: quota.Requests, Max: 5, RetryAfter: 100 * time.Millisecond})
	wantExceeded(t, refused(t, l, "a", typical, 102), quota.Exceeded{Limit: quota.Rows, Max: 200, RetryAfter: time.Second})
}

func TestReserveRefusesForGood(t *testing.T) {
	with := func(change func(*quota.Limits)) quota.Limits {
		l := typical
		change(&l)
		return l
	}
	tests := []struct {
		name   string
		limits quota.Limits
		rows   int64
		want   quota.Exceeded
	}{
		{"too many rows in a request", typical, 151, quota.Exceeded{Limit: quota.RowsPerRequest, Max: 150}},
		{"more rows than the burst", with(func(l *quota.Limits) { l.RowBurst = 100 }), 101, quota.Exceeded{Limit: quota.RowsPerRequest, Max: 100}},
		{"a negative number of rows", typical, -1, quota.Exceeded{Limit: quota.RowsPerRequest, Max: 150}},
		{"the least number of rows", typical, math.MinInt64, quota.Exceeded{Limit: quota.RowsPerRequest, Max: 150}},
		{"no limits", quota.Limits{}, 0, quota.Exceeded{Limit: quota.Requests}},
		{"rates that are no numbers", with(func(l *quota.Limits) { l.RequestsPerSecond, l.RequestBurst = math.NaN(), 0 }), 0, quota.Exceeded{Limit: quota.Requests}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := quota.New(quota.Config{})
			for range 2 {
				wantExceeded(t, refused(t, l, "a", tt.limits, tt.rows), tt.want)
			}
			if n := l.Stats().Callers; n != 0 {
				t.Errorf("%d accounts for what never passes", n)
			}
		})
	}
}

// Rates that no policy has must neither open the limit nor stop the server.
func TestOddRates(t *testing.T) {
	for _, rate := range []float64{0, -1, math.NaN(), math.Inf(-1), math.SmallestNonzeroFloat64} {
		c := newClock()
		l := quota.New(quota.Config{Now: c.Now})
		limits := typical
		limits.RequestsPerSecond, limits.RowsPerSecond = rate, rate
		accepted := 0
		for range 100 {
			if _, err := l.Reserve("a", "role", limits, 10); err == nil {
				accepted++
			} else if e := exceeded(t, err); e.RetryAfter != 0 {
				t.Errorf("rate %v: again after %v", rate, e.RetryAfter)
			}
			c.advance(time.Hour)
		}
		if accepted > 5 {
			t.Errorf("rate %v: %d accepted of a burst of 5", rate, accepted)
		}
	}
}

func TestRefund(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{Now: c.Now})
	r := reserve(t, l, "a", typical, 150)
	s := reserve(t, l, "a", typical, 50)
	refused(t, l, "a", typical, 1)
	r.Refund(100)
	r.Refund(-1000)
	r.Refund(100) // only 50 are left of it
	reserve(t, l, "a", typical, 150)
	refused(t, l, "a", typical, 1)

	c.advance(time.Second) // 100 rows back
	s.Refund(50)
	reserve(t, l, "a", typical, 150)
	refused(t, l, "a", typical, 1)

	c.advance(time.Minute)
	for range 2 {
		r := reserve(t, l, "a", typical, 100)
		r.Refund(100)
	}
	r = reserve(t, l, "a", typical, 100)
	c.advance(time.Minute) // full again before the refund
	r.Refund(100)
	reserve(t, l, "a", typical, 100)
	reserve(t, l, "a", typical, 100)
	refused(t, l, "a", typical, 1)

	var zero quota.Reservation
	zero.Refund(10)
}

// A refund must not pay for what it did not reserve: the request.
func TestRefundKeepsTheRequest(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{Now: c.Now})
	for range 5 {
		r := reserve(t, l, "a", typical, 10)
		r.Refund(10)
	}
	wantExceeded(t, refused(t, l, "a", typical, 10), quota.Exceeded{Limit: quota.Requests, Max: 5, RetryAfter: 100 * time.Millisecond})
}

func TestStreams(t *testing.T) {
	l := quota.New(quota.Config{Now: newClock().Now})
	open := func(caller string) *quota.Stream {
		t.Helper()
		s, err := l.OpenStream(caller, "role", typical)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second := open("a"), open("a")
	_, err := l.OpenStream("a", "role", typical)
	wantExceeded(t, exceeded(t, err), quota.Exceeded{Limit: quota.Streams, Max: 2})
	open("b")
	if got := l.Stats().Streams; got != 3 {
		t.Errorf("%d streams, want 3", got)
	}
	first.Close()
	first.Close() // must not make room for another
	if got := l.Stats().Streams; got != 2 {
		t.Errorf("%d streams, want 2", got)
	}
	open("a")
	if _, err := l.OpenStream("a", "role", typical); err == nil {
		t.Error("closing a stream twice made room for two")
	}
	second.Close()
	none := typical
	none.MaxStreams = 0
	_, err = l.OpenStream("c", "role", none)
	wantExceeded(t, exceeded(t, err), quota.Exceeded{Limit: quota.Streams})
	if got := l.Stats().Callers; got != 2 {
		t.Errorf("%d accounts, want 2", got)
	}
}

func TestNewLimitsGiveNoFreshBurst(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{Now: c.Now})
	for range 5 {
		reserve(t, l, "a", typical, 40)
	}
	more := typical
	more.RequestsPerSecond, more.RequestBurst, more.RowsPerSecond, more.RowBurst = 1000, 1000, 10_000, 10_000
	wantExceeded(t, refused(t, l, "a", more, 1), quota.Exceeded{Limit: quota.Requests, Max: 1000, RetryAfter: time.Millisecond})
	c.advance(time.Second)
	for range 20 {
		reserve(t, l, "a", more, 150)
	}
	refused(t, l, "b", quota.Limits{}, 1)
	// Less from now on: what is above the new burst is lost.
	for range 5 {
		reserve(t, l, "a", typical, 40)
	}
	refused(t, l, "a", typical, 1)
	refused(t, l, "a", more, 1)
}

func TestClockStepsBack(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{Now: c.Now})
	for range 5 {
		reserve(t, l, "a", typical, 0)
	}
	c.advance(-time.Hour)
	wantExceeded(t, refused(t, l, "a", typical, 0), quota.Exceeded{
		Limit: quota.Requests, Max: 5, RetryAfter: time.Hour + 100*time.Millisecond,
	})
	c.advance(time.Hour) // the hour was counted before
	wantExceeded(t, refused(t, l, "a", typical, 0), quota.Exceeded{Limit: quota.Requests, Max: 5, RetryAfter: 100 * time.Millisecond})
	c.advance(200 * time.Millisecond)
	reserve(t, l, "a", typical, 0)
	c.advance(-time.Hour)
	reserve(t, l, "a", typical, 0) // what is left can still be used
	c.advance(time.Hour)
	refused(t, l, "a", typical, 0)
}

func TestRealClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{})
		for range 5 {
			reserve(t, l, "a", typical, 0)
		}
		time.Sleep(refused(t, l, "a", typical, 0).RetryAfter)
		reserve(t, l, "a", typical, 0)
	})
}

func TestConcurrently(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{Now: c.Now, MaxCallers: 2048})
	var accepted, streams [4]int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			caller := g % 4
			for range 200 {
				r, err := l.Reserve(string(rune('a'+caller)), "role", typical, 10)
				st, serr := l.OpenStream(string(rune('a'+caller)), "role", typical)
				mu.Lock()
				if err == nil {
					accepted[caller]++
				}
				if serr == nil {
					if streams[caller]++; streams[caller] > 2 {
						t.Errorf("%d streams open of 2", streams[caller])
					}
					streams[caller]--
					st.Close()
				}
				mu.Unlock()
				r.Refund(5)
				l.Stats()
			}
		})
	}
	wg.Wait()
	for caller, n := range accepted {
		if n != 5 {
			t.Errorf("caller %d: %d accepted of a burst of 5", caller, n)
		}
	}
}

func TestAllocations(t *testing.T) {
	limits := typical
	limits.RequestBurst, limits.RowBurst = 1e9, 1e12
	l := quota.New(quota.Config{})
	reserve(t, l, "a", limits, 1)
	if n := testing.AllocsPerRun(1000, func() {
		r, _ := l.Reserve("a", "role", limits, 10)
		r.Refund(3)
	}); n != 0 {
		t.Errorf("an accepted call costs %v allocations", n)
	}
	for range 5 {
		reserve(t, l, "b", typical, 1)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = l.Reserve("b", "role", typical, 151) }); n > 1 {
		t.Errorf("a refused call costs %v allocations", n)
	}
}
