package quota

import (
	"math"
	"time"
)

// Standing is what an account has left, as far as this replica knows.
type Standing struct {
	// Known tells whether the rest was found out; else it says nothing.
	Known bool
	// Budgets tells whether that holds for budgets too, which only the store knows.
	Budgets bool
	// Left is what is left of each kind; 0 where it is not limited.
	Left Amounts
	// Reset is how long it is until all of it is there again: until a bucket is
	// full, or a budget's period ends. 0 if never or not known.
	Reset [Kinds]time.Duration
}

// tellInterval is how often a caller that has most of everything left is told so.
// To tell it with each of thousands of answers a second costs more than to count
// them.
const tellInterval = 100 * time.Millisecond

// tell writes how the account stands at now, unless to is nil, if there is something
// to tell: a refusal, that half of something is used, or that it was told long ago.
func (a *account) tell(to *Standing, now time.Duration, refused bool) {
	if to == nil {
		return
	}
	a.stand(to, now)
	if !refused && a.told != 0 && now-a.told < tellInterval && !to.low(&a.limits) {
		*to = Standing{}
		return
	}
	a.told = max(now, 1)
}

// low tells whether half of something is used.
func (s *Standing) low(limits *Limits) bool {
	for k, most := range limits.Most() {
		if most > 0 && s.Knows(Kind(k)) && s.Left[k] <= most/2 {
			return true
		}
	}
	return false
}

// stand writes how the account stands at now.
func (a *account) stand(to *Standing, now time.Duration) {
	*to = Standing{}
	d := a.elapsed(now)
	requests, rows := a.requests.after(d), a.rows.after(d)
	if s := a.shared; s != nil && s.shard.limiter.breaker.away() == nil {
		requests = a.had(KindRequests, now) + float64(s.held[KindRequests])
		rows = a.had(KindRows, now) + float64(s.held[KindRows])
		to.Budgets = true
		most := a.limits.Most()
		for k := KindDayRows; k < Kinds; k++ {
			if s.most[k] == 0 && most[k] == 0 {
				continue
			}
			to.Left[k] = min(int64(max(0, a.had(k, now)+float64(s.held[k]))), most[k])
			if ends := s.ends(k); ends > now {
				to.Reset[k] = ends - now
			}
		}
	}
	// What the store has refilled and what is held besides may be more than the burst.
	requests, rows = min(requests, a.requests.burst), min(rows, a.rows.burst)
	to.Known = true
	to.Left[KindRequests], to.Left[KindRows] = int64(max(0, math.Floor(requests))), int64(max(0, math.Floor(rows)))
	to.Reset[KindRequests] = untilFull(&a.requests, requests)
	to.Reset[KindRows] = untilFull(&a.rows, rows)
}

// untilFull is how long a bucket with that many tokens takes to be full; 0 if it
// never is.
func untilFull(b *bucket, tokens float64) time.Duration {
	if tokens >= b.burst {
		return 0
	}
	return refill(b.burst-tokens, b.rate)
}

// Knows tells whether what is left of the kind was found out.
func (s *Standing) Knows(k Kind) bool { return s.Known && (k < KindDayRows || s.Budgets) }
