package report

import (
	"math"
	"time"
)

// histogram counts durations in buckets each 5 % longer than the one before it,
// from a microsecond on: exact enough to tell quantiles, and small however many
// there are.
type histogram struct {
	first  int // bucket that counts[0] is of
	counts []uint32
	n      uint64
}

const bucketGrowth = 1.05

var bucketLog = math.Log(bucketGrowth)

// longestBucket is that of a month: longer durations count as one.
var longestBucket = bucketOf(30 * 24 * time.Hour)

func bucketOf(d time.Duration) int {
	if d <= time.Microsecond {
		return 0
	}
	return int(math.Ceil(math.Log(float64(d)/float64(time.Microsecond)) / bucketLog))
}

func (h *histogram) add(d time.Duration) {
	b := min(bucketOf(d), longestBucket)
	switch {
	case len(h.counts) == 0:
		h.first, h.counts = b, make([]uint32, 1, 8)
	case b < h.first:
		grown := make([]uint32, len(h.counts)+h.first-b)
		copy(grown[h.first-b:], h.counts)
		h.first, h.counts = b, grown
	case b >= h.first+len(h.counts):
		h.counts = append(h.counts, make([]uint32, b-h.first-len(h.counts)+1)...)
	}
	h.counts[b-h.first]++
	h.n++
}

// quantile is a duration that the share q of all does not exceed, at most 5 % too
// long; 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank, seen := uint64(math.Ceil(q*float64(h.n))), uint64(0)
	for i, c := range h.counts {
		if seen += uint64(c); seen >= rank {
			return time.Duration(float64(time.Microsecond) * math.Pow(bucketGrowth, float64(h.first+i)))
		}
	}
	return time.Duration(float64(time.Microsecond) * math.Pow(bucketGrowth, float64(h.first+len(h.counts)-1)))
}
