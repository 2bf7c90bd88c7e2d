package quota_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// extremes are limits from the slowest to the fastest that a policy can have.
func extremes(r *rand.Rand) quota.Limits {
	rate := func(most float64) float64 { return math.Pow(10, -3+r.Float64()*(math.Log10(most)+3)) }
	burst := func(most float64) int64 { return int64(math.Pow(10, r.Float64()*math.Log10(most))) }
	l := quota.Limits{RequestsPerSecond: rate(1e9), RequestBurst: burst(1e9), RowsPerSecond: rate(1e12), RowBurst: burst(1e12)}
	l.MaxRowsPerRequest = l.RowBurst
	return l
}

// Whenever a caller asks, in no window may it get more than the burst and what
// the rate gives in that time.
func TestNoWindowHasMoreThanBurstAndRate(t *testing.T) {
	type accepted struct {
		at   time.Duration
		rows int64
	}
	total := 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		limits := extremes(r)
		c := newClock()
		start := c.now
		l := quota.New(quota.Config{Now: c.Now, MaxCallers: 1 + r.IntN(3)})
		var got []accepted
		for range 400 {
			// About as fast as the limits allow, in bursts.
			if r.IntN(4) == 0 {
				c.advance(time.Duration(r.ExpFloat64() * 2e9 / min(limits.RequestsPerSecond, limits.RowsPerSecond)))
			}
			rows := r.Int64N(1 + limits.RowBurst/(1+r.Int64N(5)))
			res, err := l.Reserve("a", "role", limits, rows)
			if err != nil {
				continue
			}
			if r.IntN(5) == 0 {
				res.Refund(rows / 2)
				rows -= rows / 2
			}
			got = append(got, accepted{c.now.Sub(start), rows})
			_, _ = l.Reserve("flood", string(rune(r.IntN(1000))), limits, 0)
		}
		total += len(got)
		for i := range got {
			var requests, rows float64
			for j := i; j < len(got); j++ {
				requests++
				rows += float64(got[j].rows)
				window := (got[j].at - got[i].at).Seconds()
				const rounding = 1 + 1e-12
				if most := float64(limits.RequestBurst) + limits.RequestsPerSecond*window; requests > most*rounding {
					t.Fatalf("seed %d, %+v: %v requests within %vs, at most %v", seed, limits, requests, window, most)
				}
				if most := float64(limits.RowBurst) + limits.RowsPerSecond*window; rows > most*rounding {
					t.Fatalf("seed %d, %+v: %v rows within %vs, at most %v", seed, limits, rows, window, most)
				}
			}
		}
	}
	if total < 2000 {
		t.Errorf("only %d accepted; the test tests nothing", total)
	}
}

// Exactly after RetryAfter the same call passes, and not noticeably before.
func TestRetryAfterIsRight(t *testing.T) {
	waits := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		limits := extremes(r)
		c := newClock()
		l := quota.New(quota.Config{Now: c.Now})
		for range 50 {
			rows := r.Int64N(1 + limits.RowBurst)
			_, err := l.Reserve("a", "role", limits, rows)
			if err == nil {
				continue
			}
			e := exceeded(t, err)
			if e.RetryAfter <= 0 {
				// Only what takes longer than a time.Duration can say has no time.
				if limits.RowsPerSecond*1e9 > float64(rows) {
					t.Fatalf("seed %d, %+v, %d rows: %v", seed, limits, rows, err)
				}
				continue
			}
			if e.RetryAfter > 365*24*time.Hour {
				break // no Limiter lives to see many of these
			}
			waits++
			if early := e.RetryAfter - 1 - e.RetryAfter/1e12; early > 0 {
				c.advance(early)
				if _, err := l.Reserve("a", "role", limits, rows); err == nil {
					t.Fatalf("seed %d, %+v, %d rows: passed %v before %v", seed, limits, rows, e.RetryAfter-early, e.RetryAfter)
				}
				c.advance(-early)
			}
			c.advance(e.RetryAfter)
			if _, err := l.Reserve("a", "role", limits, rows); err != nil {
				t.Fatalf("seed %d, %+v, %d rows: refused after %v: %v", seed, limits, rows, e.RetryAfter, err)
			}
		}
	}
	if waits < 1000 {
		t.Errorf("only %d waits; the test tests nothing", waits)
	}
}
