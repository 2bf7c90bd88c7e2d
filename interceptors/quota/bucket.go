package quota

import (
	"math"
	"time"
)

// bucket is a token bucket. Its owner keeps the time for which tokens holds.
//
// golang.org/x/time/rate was considered. It cannot give tokens back once they
// are taken (Reservation.Cancel does so only for tokens of the future), counts
// a second time what lies between two calls if the clock steps back, and would
// need a lock of its own for each of the two buckets that a call takes from
// together.
type bucket struct {
	rate   float64 // tokens a nanosecond
	burst  float64 // the most tokens it holds
	tokens float64 // what is above burst does not count
}

func newBucket(perSecond float64, burst int64) bucket {
	return bucket{rate: max(0, perSecond) / float64(time.Second), burst: float64(burst), tokens: float64(burst)}
}

// after is how many tokens there are when d has gone by and none is taken. It
// never falls as d grows.
func (b *bucket) after(d time.Duration) float64 {
	return min(b.burst, b.tokens+b.rate*float64(d))
}

// adopt changes rate and burst, and gives no tokens.
func (b *bucket) adopt(perSecond float64, burst int64) {
	tokens := b.tokens
	*b = newBucket(perSecond, burst)
	b.tokens = tokens
}

// long stands for a time that is too long for a time.Duration, or endless.
const long = time.Duration(math.MaxInt64)

// until is the least d, give or take rounding, for which after(d) is n or more;
// long if there is none.
func (b *bucket) until(n float64) time.Duration {
	if b.tokens >= n {
		return 0
	}
	ns := math.Ceil((n - b.tokens) / b.rate)
	if n > b.burst || !(ns < float64(long/2)) {
		return long
	}
	d := time.Duration(ns)
	// The division was rounded, perhaps down. The step is the least that a
	// float64 of this size can show.
	for b.after(d) < n {
		d += max(1, d>>52)
	}
	return d
}
