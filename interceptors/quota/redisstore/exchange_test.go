//go:build redis

package redisstore_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

func TestExchangeTakesAllOrNothing(t *testing.T) {
	c := newClock("2030-05-15T12:00:00Z")
	s := open(t, redisstore.Config{Now: c.Now}, redistest.Start(t).Address)
	limits := typical
	limits.Day.Rows = 300
	need := func(requests, rows int64) quota.Amounts {
		return quota.Amounts{quota.KindRequests: requests, quota.KindRows: rows, quota.KindDayRows: rows}
	}
	steps := []struct {
		name    string
		after   time.Duration
		x       quota.Exchange
		passed  bool
		taken   quota.Amounts
		left    [3]float64 // requests, rows, rows of the day
		dayEnds time.Duration
	}{
		{"from full", 0, quota.Exchange{Need: need(1, 150)}, true, quota.Amounts{}, [3]float64{4, 50, 150}, 12 * time.Hour},
		{"too many rows takes no request", 0, quota.Exchange{Need: need(1, 51)}, false, quota.Amounts{}, [3]float64{4, 50, 150}, 12 * time.Hour},
		{"refilled by the rate", 500 * time.Millisecond, quota.Exchange{Need: need(2, 0)}, true, quota.Amounts{}, [3]float64{3, 100, 150}, 12*time.Hour - 500*time.Millisecond},
		{"what is wanted, as far as it is there", 0, quota.Exchange{Need: need(1, 0), Want: quota.Amounts{10, 30, 1000}, Share: 0.1}, true, quota.Amounts{2, 30, 15}, [3]float64{0, 70, 135}, 12*time.Hour - 500*time.Millisecond},
		{"nothing is wanted of what is refused", 0, quota.Exchange{Need: need(1, 0), Want: quota.Amounts{0, 30, 1000}, Share: 0.1}, false, quota.Amounts{}, [3]float64{0, 70, 135}, 12*time.Hour - 500*time.Millisecond},
		{"given back, no more than the burst", 0, quota.Exchange{Return: quota.Amounts{100, 1000}}, true, quota.Amounts{}, [3]float64{5, 200, 135}, 12*time.Hour - 500*time.Millisecond},
		{"a request that the burst has, the day not", 0, quota.Exchange{Need: need(1, 136)}, false, quota.Amounts{}, [3]float64{5, 200, 135}, 12*time.Hour - 500*time.Millisecond},
		{"used without being taken", 0, quota.Exchange{Return: quota.Amounts{quota.KindDayRows: -200}}, true, quota.Amounts{}, [3]float64{5, 200, -65}, 12*time.Hour - 500*time.Millisecond},
	}
	for _, step := range steps {
		c.advance(step.after)
		step.x.Limits = limits
		a := exchange(t, s, step.x)
		got := [3]float64(a.Left[:3])
		if a.Passed != step.passed || a.Taken != step.taken || got != step.left || a.DayEnds != step.dayEnds {
			t.Errorf("%s: %+v", step.name, a)
		}
	}
}

// Periods are calendar days and months by UTC, whatever the year.
func TestPeriods(t *testing.T) {
	server := redistest.Start(t)
	limits := plenty
	limits.Day.Rows, limits.Month.Rows = 10, 10
	for _, at := range []string{
		"1999-12-31T23:59:59Z", "2024-02-29T00:00:00Z", "2024-02-28T23:59:59.999999Z", "2026-11-24T15:00:00Z",
		"2030-01-01T00:00:00Z", "2030-02-28T12:00:00Z", "2100-02-28T23:00:00Z", "2400-02-29T01:02:03Z",
	} {
		c := newClock(at)
		s := open(t, redisstore.Config{Now: c.Now}, server.Address)
		now := c.Now()
		a := exchange(t, s, quota.Exchange{Limits: limits, Account: quota.Account{Caller: at}})
		day := now.Truncate(24*time.Hour).AddDate(0, 0, 1).Sub(now)
		month := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC).Sub(now)
		want := quota.Answer{
			Passed: true, Left: a.Left, DayEnds: day, MonthEnds: month,
			Day: now.Unix() / 86400, Month: int64(now.Year()*12) + int64(now.Month()) - 1,
		}
		if diff := cmp.Diff(want, a); diff != "" {
			t.Errorf("%s (-want +got):\n%s", at, diff)
		}
	}
}

func TestBudgetEndsWithItsPeriod(t *testing.T) {
	c := newClock("2030-01-31T23:59:50Z")
	s := open(t, redisstore.Config{Now: c.Now}, redistest.Start(t).Address)
	limits := plenty
	limits.Day.Rows, limits.Month.Rows = 100, 150
	take := func(n int64) quota.Answer {
		return exchange(t, s, quota.Exchange{Limits: limits, Need: quota.Amounts{quota.KindDayRows: n, quota.KindMonthRows: n}})
	}
	old := take(100)
	if take(1).Passed {
		t.Error("more than the day's budget")
	}
	c.advance(10 * time.Second) // a new day, and a new month
	if !take(100).Passed {
		t.Error("a new day has nothing left")
	}
	// What comes back to the day that has ended is dropped, what comes back to the
	// day of now is not.
	back := quota.Exchange{Limits: limits, Return: quota.Amounts{quota.KindDayRows: 40, quota.KindMonthRows: 40}, Day: old.Day, Month: old.Month}
	if a := exchange(t, s, back); a.Left[quota.KindDayRows] != 0 || a.Left[quota.KindMonthRows] != 50 {
		t.Errorf("left %v", a.Left)
	}
	back.Day++
	if a := exchange(t, s, back); a.Left[quota.KindDayRows] != 40 || a.Left[quota.KindMonthRows] != 50 {
		t.Errorf("left %v", a.Left)
	}
	c.advance(24 * time.Hour)
	if a := take(51); a.Passed { // the day has it, the month not
		t.Errorf("more than the month's budget: left %v", a.Left)
	}
	if a := take(50); !a.Passed || a.Left[quota.KindDayRows] != 50 {
		t.Errorf("left %v", a.Left)
	}
}

// A clock that jumps gives no more than a burst, or a period, for a jump ahead, and
// nothing for one back; nor does it stop all calls until it is where it was.
func TestClockJumps(t *testing.T) {
	c := newClock("2030-05-15T12:00:00Z")
	s := open(t, redisstore.Config{Now: c.Now}, redistest.Start(t).Address)
	limits := typical
	limits.Day.Rows = 100
	left := func() [3]float64 {
		a := exchange(t, s, quota.Exchange{Limits: limits})
		return [3]float64(a.Left[:3])
	}
	want := func(what string, requests, rows, day float64) {
		t.Helper()
		if got := left(); got != [3]float64{requests, rows, day} {
			t.Errorf("%s: left %v", what, got)
		}
	}
	exchange(t, s, quota.Exchange{Limits: limits, Need: quota.Amounts{5, 100, 100}})
	want("all used", 0, 100, 0)
	c.advance(-10 * time.Second)
	want("a small step back", 0, 100, 0)
	c.advance(10 * time.Second)
	want("counted before", 0, 100, 0)
	c.advance(48 * time.Hour)
	want("far ahead: as good as new", 5, 200, 100)
	exchange(t, s, quota.Exchange{Limits: limits, Need: quota.Amounts{5, 100, 60}})
	c.advance(-48 * time.Hour)
	want("and back: what was used stays used", 0, 100, 40)
	c.advance(100 * time.Millisecond)
	want("time goes on", 1, 110, 40)
}

func TestEmptyServerBeginsAnew(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, redisstore.Config{}, server.Address)
	limits := typical
	limits.RequestsPerSecond, limits.Day.Rows = 0.001, 100
	all := quota.Exchange{Account: account, Limits: limits, Need: quota.Amounts{quota.KindRequests: 5, quota.KindDayRows: 100}}
	if !exchange(t, s, all).Passed || exchange(t, s, all).Passed {
		t.Fatal("the limits do not hold")
	}
	server.Restart()
	if a, err := s.Exchange(t.Context(), &all); err == nil && a.Passed { // a connection that broke is an error, once
		t.Errorf("a restart gave everything back: %+v", a)
	}
	if exchange(t, s, all).Passed {
		t.Error("a restart gave everything back")
	}
	server.RestartEmpty()
	_, _ = s.Exchange(t.Context(), &quota.Exchange{Account: quota.Account{Caller: "another"}, Limits: limits})
	if !exchange(t, s, all).Passed {
		t.Error("an empty server has something used")
	}
}

// Nothing stays for ever, and nothing goes while it still says something.
func TestKeysExpire(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, redisstore.Config{}, server.Address)
	slow := typical
	slow.RequestsPerSecond, slow.RequestBurst = 0.01, 10
	tests := []struct {
		name   string
		limits quota.Limits
		need   quota.Amounts
		least  time.Duration
		most   time.Duration
	}{
		{"as good as new", typical, quota.Amounts{}, 0, 2 * time.Minute},
		{"until a slow bucket is full", slow, quota.Amounts{5}, 500 * time.Second, 700 * time.Second},
		{"never full", quota.Limits{RequestBurst: 10}, quota.Amounts{5}, 24 * time.Hour, math.MaxInt64},
	}
	for _, tt := range tests {
		a := quota.Account{Caller: tt.name}
		exchange(t, s, quota.Exchange{Account: a, Limits: tt.limits, Need: tt.need, Keep: time.Second})
		ttl := expiry(t, server, "sallyport:{"+tt.name+" }:use")
		if ttl < tt.least || ttl > tt.most {
			t.Errorf("%s: expires in %v", tt.name, ttl)
		}
	}
	budget := plenty
	budget.Month.Rows = 10
	now := time.Now().UTC()
	exchange(t, s, quota.Exchange{Limits: budget, Need: quota.Amounts{quota.KindMonthRows: 1}})
	end := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
	if ttl := expiry(t, server, "sallyport:{spiffe://td.test/a role}:use"); ttl < end.Sub(now)-time.Minute {
		t.Errorf("a month's budget expires in %v, the month ends in %v", ttl, end.Sub(now))
	}
}
