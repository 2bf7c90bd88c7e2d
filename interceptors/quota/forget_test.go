package quota_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
)

func TestFloodOfIdentitiesFillsNoMemory(t *testing.T) {
	const identities, most = 1_000_000, 10_000
	c := newClock()
	l := quota.New(quota.Config{MaxCallers: most, Now: c.Now})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	accepted := 0
	for i := range identities {
		c.advance(20 * time.Microsecond) // of 100 ms that an account takes to be full
		if _, err := l.Reserve(fmt.Sprintf("spiffe://td.test/flood/%d", i), "role", typical, 1); err == nil {
			accepted++
		}
		if i%50_000 == 0 {
			if n := l.Stats().Callers; n > most {
				t.Fatalf("%d accounts, at most %d", n, most)
			}
		}
	}
	stats := l.Stats()
	if stats.Callers > most || stats.Forgotten == 0 {
		t.Errorf("%+v, at most %d callers", stats, most)
	}
	if accepted < identities*9/10 {
		t.Errorf("only %d of %d accepted although there was room", accepted, identities)
	}
	if grown := int64(heap()) - int64(before); grown > 16<<20 {
		t.Errorf("%d identities left %d bytes", identities, grown)
	}
	runtime.KeepAlive(l)
}

// A caller that has drained its account floods the limiter with identities to
// have it forgotten.
func TestFloodDoesNotResetTheFlooder(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{MaxCallers: 100, Now: c.Now})
	for range 5 {
		reserve(t, l, "greedy", typical, 40)
	}
	for i := range 10_000 {
		_, _ = l.Reserve(fmt.Sprintf("flood-%d", i), "role", typical, 0)
	}
	wantExceeded(t, refused(t, l, "greedy", typical, 1), quota.Exceeded{Limit: quota.Requests, Max: 5, RetryAfter: 100 * time.Millisecond})

	// Nothing is full until then, so that there is no room, and it is said when
	// there will be: the flood's accounts lack one request each.
	wantExceeded(t, refused(t, l, "late", typical, 1), quota.Exceeded{Limit: quota.Callers, Max: 100, RetryAfter: 100 * time.Millisecond})
	c.advance(100 * time.Millisecond)
	reserve(t, l, "late", typical, 1)
	if _, err := l.Reserve("greedy", "role", typical, 10); err != nil {
		t.Errorf("the tenth of a second gave no request: %v", err)
	}
	refused(t, l, "greedy", typical, 1)
}

// An account is forgotten when it is full in requests and rows and has no
// stream, and not a moment earlier.
func TestForgetting(t *testing.T) {
	slow := quota.Limits{RequestsPerSecond: 1, RequestBurst: 2, RowsPerSecond: 10, RowBurst: 100, MaxRowsPerRequest: 100, MaxStreams: 1}
	tests := []struct {
		name string
		max  int // accounts
		use  func(t *testing.T, l *quota.Limiter, c *clock)
		full time.Duration // after use; 0 for never
	}{
		{"requests come last", 1, func(t *testing.T, l *quota.Limiter, _ *clock) {
			reserve(t, l, "a", slow, 1)
			reserve(t, l, "a", slow, 1)
		}, 2 * time.Second},
		{"rows come last", 1, func(t *testing.T, l *quota.Limiter, _ *clock) { reserve(t, l, "a", slow, 50) }, 5 * time.Second},
		{"used again before", 1, func(t *testing.T, l *quota.Limiter, c *clock) {
			reserve(t, l, "a", slow, 50)
			c.advance(4 * time.Second)
			reserve(t, l, "a", slow, 50)
		}, 6 * time.Second},
		{"refunded, before another that would have been first", 2, func(t *testing.T, l *quota.Limiter, c *clock) {
			r := reserve(t, l, "a", slow, 50)
			reserve(t, l, "another", slow, 40)
			_, _ = l.Reserve("b", "role", slow, 0) // makes the limiter look at it
			r.Refund(30)
		}, 2 * time.Second},
		{"faster limits, before another that would have been first", 2, func(t *testing.T, l *quota.Limiter, c *clock) {
			reserve(t, l, "a", slow, 50)
			reserve(t, l, "another", slow, 40)
			_, _ = l.Reserve("b", "role", slow, 0)
			fast := slow
			fast.RowsPerSecond = 100
			reserve(t, l, "a", fast, 0)
		}, 2 * time.Second},
		{"refused meanwhile", 1, func(t *testing.T, l *quota.Limiter, c *clock) {
			reserve(t, l, "a", slow, 100)
			for range 10 {
				refused(t, l, "a", slow, 100)
				c.advance(100 * time.Millisecond)
			}
		}, 9 * time.Second},
		{"open stream", 1, func(t *testing.T, l *quota.Limiter, _ *clock) {
			if _, err := l.OpenStream("a", "role", slow); err != nil {
				t.Fatal(err)
			}
		}, 0},
		{"closed stream, before another that would have been first", 2, func(t *testing.T, l *quota.Limiter, c *clock) {
			s, err := l.OpenStream("a", "role", slow)
			if err != nil {
				t.Fatal(err)
			}
			c.advance(time.Hour)
			reserve(t, l, "another", slow, 40)
			_, _ = l.Reserve("b", "role", slow, 0)
			reserve(t, l, "a", slow, 20)
			s.Close()
		}, 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newClock()
			l := quota.New(quota.Config{MaxCallers: tt.max, Now: c.Now})
			tt.use(t, l, c)
			newcomer := func() error {
				_, err := l.Reserve("newcomer", "role", slow, 0)
				return err
			}
			if tt.full == 0 {
				c.advance(1000 * time.Hour)
				wantExceeded(t, exceeded(t, newcomer()), quota.Exceeded{Limit: quota.Callers, Max: int64(tt.max)})
				return
			}
			wantExceeded(t, exceeded(t, newcomer()), quota.Exceeded{Limit: quota.Callers, Max: int64(tt.max), RetryAfter: tt.full})
			c.advance(tt.full - 1)
			wantExceeded(t, exceeded(t, newcomer()), quota.Exceeded{Limit: quota.Callers, Max: int64(tt.max), RetryAfter: 1})
			c.advance(1)
			if err := newcomer(); err != nil {
				t.Errorf("a full account was kept: %v", err)
			}
			if got := l.Stats(); got.Callers != tt.max || got.Forgotten != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// While there is room, an account waits for its caller to come back, so that
// callers who come and go do not have theirs made anew each time.
func TestIdleAccountsAreForgotten(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{Idle: time.Minute, Now: c.Now})
	for i := range 10 {
		reserve(t, l, fmt.Sprint(i), typical, 100) // full again after a second
	}
	if _, err := l.OpenStream("streaming", "role", typical); err != nil {
		t.Fatal(err)
	}
	newcomers := 0
	come := func() {
		for range 2000 { // some for every shard
			newcomers++
			reserve(t, l, fmt.Sprintf("new-%d", newcomers), typical, 0)
		}
	}
	c.advance(61*time.Second - 1)
	come()
	if got := l.Stats(); got.Forgotten != 0 {
		t.Errorf("forgotten too early: %+v", got)
	}
	c.advance(1)
	come()
	if got := l.Stats(); got.Forgotten != 10 {
		t.Errorf("%d of 10 idle accounts forgotten", got.Forgotten)
	}
}

// A reservation may outlive its account; the rows then belong to nobody.
func TestRefundToAForgottenAccount(t *testing.T) {
	c := newClock()
	l := quota.New(quota.Config{MaxCallers: 1, Now: c.Now})
	r := reserve(t, l, "a", typical, 100)
	c.advance(time.Hour)
	reserve(t, l, "b", typical, 100)
	c.advance(time.Hour)
	reserve(t, l, "a", typical, 150)
	r.Refund(100)
	refused(t, l, "a", typical, 51)
	c.advance(time.Hour)
	reserve(t, l, "b", typical, 1)
}
