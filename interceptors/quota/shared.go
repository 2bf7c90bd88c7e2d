package quota

import (
	"math"
	"time"
)

// shared is what a replica holds of an account that it shares with others. The
// shard's mu guards it.
type shared struct {
	shard *shard
	// most is what held may be at most, by the limits of now.
	most Amounts
	// held are the amounts taken from the store and not used: the lease. It holds
	// until until; of each budget until its period ends, too.
	held  Amounts
	until time.Duration
	// back is what is to be given back, or to be charged where it is negative.
	back Amounts
	// day and month are the periods that held and back are of; 0 until the store
	// has told. They end at dayEnds and monthEnds.
	day, month         int64
	dayEnds, monthEnds time.Duration
	// left is what the store had at leftAt, believed until believed: a refusal
	// that follows from it needs no round trip.
	left             [Kinds]float64
	leftAt, believed time.Duration
	// perRow is how many microseconds a row ran lately.
	perRow float64

	// flight is closed when the round trip that is under way has ended; nil if
	// none is. There is at most one for each account.
	flight chan struct{}
	used   bool          // since the last exchange
	calm   time.Duration // until then nothing is renewed ahead of time
	last   time.Duration // when the last exchange was
	queued bool          // for the keeper

	placed     int64 // the streams that the store knows of
	unsure     bool  // an answer was lost: the store may know of fewer
	saidPlaces time.Duration
	placing    chan struct{} // as flight, for Places

	// keep is until when the account must not be forgotten: something is to be
	// settled.
	keep time.Duration
}

// covers tells whether the lease is enough.
func (s *shared) covers(need *Amounts, now time.Duration) bool {
	if now >= s.until {
		return false
	}
	for k, n := range need {
		if n > s.held[k] || n > 0 && now >= s.ends(Kind(k)) {
			return false
		}
	}
	return true
}

// ends is when the period of the kind ends; never for a bucket.
func (s *shared) ends(k Kind) time.Duration {
	switch {
	case k.day():
		return s.dayEnds
	case k.month():
		return s.monthEnds
	}
	return long
}

// spend takes from the lease what covers said is there.
func (s *shared) spend(need *Amounts) {
	for k, n := range need {
		s.held[k] -= n
	}
	s.used = true
}

// low tells whether half of the lease is used, and the store has enough for more.
func (s *shared) low() bool {
	share := s.shard.limiter.lease.Share
	for k, most := range s.most {
		if 2*s.held[k] < most && (Kind(k) < KindDayRows || float64(most) <= share*s.left[k]) {
			return true
		}
	}
	return false
}

// empty tells whether there is nothing to settle with the store.
func (s *shared) empty() bool {
	return s.held == Amounts{} && s.back == Amounts{} && s.placed == 0
}

// had is how much of the kind the store has by what is known, at now.
func (a *account) had(k Kind, now time.Duration) float64 {
	s := a.shared
	switch {
	case now >= s.ends(k):
		most := a.limits.Most()
		return float64(most[k])
	case k == KindRequests:
		return min(a.requests.burst, s.left[k]+a.requests.rate*float64(max(0, now-s.leftAt)))
	case k == KindRows:
		return min(a.rows.burst, s.left[k]+a.rows.rate*float64(max(0, now-s.leftAt)))
	}
	return s.left[k]
}

// known is the refusal that follows from what the store said; nil if none does.
func (a *account) known(need *Amounts, now time.Duration) *Exceeded {
	if now >= a.shared.believed {
		return nil
	}
	return a.refusal(need, now)
}

// refusal names of the limits that are exceeded the one that takes longest to
// recover.
func (a *account) refusal(need *Amounts, now time.Duration) *Exceeded {
	s := a.shared
	var worst *Exceeded
	for k, n := range need {
		kind := Kind(k)
		missing := float64(n) - float64(s.held[k]) - a.had(kind, now)
		if n == 0 || missing <= 0 {
			continue
		}
		e := Exceeded{Limit: kind.limit(), Max: a.limits.Most()[k]}
		switch kind {
		case KindRequests:
			e.RetryAfter = refill(missing, a.requests.rate)
		case KindRows:
			e.RetryAfter = refill(missing, a.rows.rate)
		default:
			e.RetryAfter = max(s.ends(kind)-now, 1)
		}
		if worst == nil || e.RetryAfter > worst.RetryAfter {
			worst = &e
		}
	}
	return worst
}

// refill is how long a bucket takes to get the tokens; 0 if too long to tell.
func refill(tokens, rate float64) time.Duration {
	ns := math.Ceil(tokens / rate)
	if !(ns < float64(long/2)) {
		return 0
	}
	return max(time.Duration(ns), 1)
}

// prepare makes the exchange that fetches what is needed, and a new lease if the
// account is in use. What is held goes back with it, unless it is only renewed:
// then calls go on using it meanwhile.
func (a *account) prepare(need Amounts, renew, use bool) *Exchange {
	s, lease := a.shared, &a.shared.shard.limiter.lease
	x := &Exchange{
		Account: Account{a.name.caller, a.name.key}, Limits: a.limits,
		Return: s.back, Day: s.day, Month: s.month, Need: need, Share: lease.Share, Keep: lease.Duration,
	}
	s.back = Amounts{}
	if use {
		x.Want = s.most
	}
	for k := range s.held {
		if renew {
			x.Want[k] = max(0, x.Want[k]-s.held[k])
			continue
		}
		x.Return[k] += s.held[k]
		s.held[k] = 0
	}
	s.used = false
	return x
}

// receive takes the answer over; sent is when it was asked for.
func (a *account) receive(x *Exchange, answer Answer, sent, now time.Duration) {
	s := a.shared
	s.turn(answer.Day, answer.Month)
	s.dayEnds, s.monthEnds = sent+answer.DayEnds, sent+answer.MonthEnds
	s.left, s.leftAt = answer.Left, now
	s.believed, s.last = now+s.shard.limiter.lease.Duration, now
	s.until = sent + s.shard.limiter.lease.Duration
	short := false
	for k, n := range answer.Taken {
		s.held[k] += n
		short = short || 2*n < x.Want[k]
		if over := s.held[k] - s.most[k]; over > 0 { // limits have changed, or something was refunded
			s.held[k] -= over
			s.back[k] += over
		}
	}
	a.settleLater(now)
	if short {
		s.calm = now + s.shard.limiter.lease.Duration/4
	}
}

// turn begins new periods: what is held or to be settled of the old ones is gone
// with them. What was used before any period was known counts for the first.
func (s *shared) turn(day, month int64) {
	for k := range s.held {
		kind, before := Kind(k), int64(0)
		switch {
		case kind.day() && s.day != day:
			before = s.day
		case kind.month() && s.month != month:
			before = s.month
		default:
			continue
		}
		s.held[k], s.back[k] = 0, min(s.back[k], 0)
		if before != 0 {
			s.back[k] = 0
		}
	}
	s.day, s.month = day, month
}

// lost is called if it is not known whether an exchange was done. What was given
// back is then lost to the caller; what is to be charged is charged again, at
// worst twice: never does that give the caller more than the limit. What the store
// has is not known either.
func (s *shared) lost(x *Exchange, now time.Duration) {
	s.last, s.believed = now, 0
	for k, n := range x.Return {
		if n < 0 && (!Kind(k).day() || s.day == x.Day) && (!Kind(k).month() || s.month == x.Month) {
			s.back[k] += n
		}
	}
}

// give gives back what was taken for a message and not used: to the lease as far
// as that goes, else to the store.
func (a *account) give(k Kind, n int64, now time.Duration) {
	s := a.shared
	if now < s.until && now < s.ends(k) {
		room := min(max(s.most[k]-s.held[k], 0), n)
		s.held[k] += room
		n -= room
	}
	s.back[k] += n
	a.settleLater(now)
}

// charge takes what was used without having been taken.
func (a *account) charge(k Kind, n int64, now time.Duration) {
	s := a.shared
	if now < s.until && now < s.ends(k) {
		from := min(s.held[k], n)
		s.held[k] -= from
		n -= from
	}
	s.back[k] -= n
	s.left[k] -= float64(n)
	a.settleLater(now)
}

// settleLater sees to it that the keeper settles the account, and that it is not
// forgotten before.
func (a *account) settleLater(now time.Duration) {
	a.shared.keep = max(a.shared.keep, now+settleWithin)
	a.shared.shard.active[a] = struct{}{}
}

// settleWithin is how long an account with something to settle is kept while the
// store is away.
const settleWithin = 10 * time.Second
