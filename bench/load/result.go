package load

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what came of the calls that count.
type Result struct {
	// Calls were answered well.
	Calls int64
	// Errors are the others, by kind.
	Errors map[string]int64
	// Elapsed is how long calls counted.
	Elapsed time.Duration
	// Latency is of the calls that were answered well.
	Latency *Histogram
	// Failed is the latency of the others.
	Failed *Histogram
	// Late is how late calls of an open loop started. Where it is not small, the
	// generator could not keep to its rate, or all its callers were busy.
	Late *Histogram
}

// Rate is the calls a second that were answered well.
func (r *Result) Rate() float64 { return float64(r.Calls) / r.Elapsed.Seconds() }

// AllErrors is how many calls were not answered well.
func (r *Result) AllErrors() (n int64) {
	for _, count := range r.Errors {
		n += count
	}
	return n
}

// Kinds are the kinds of errors, sorted.
func (r *Result) Kinds() []string { return slices.Sorted(maps.Keys(r.Errors)) }

// Add adds the calls of another run.
func (r *Result) Add(other *Result) {
	if r.Errors == nil {
		r.Errors, r.Latency, r.Failed, r.Late = map[string]int64{}, NewHistogram(), NewHistogram(), NewHistogram()
	}
	r.Calls += other.Calls
	for kind, n := range other.Errors {
		r.Errors[kind] += n
	}
	r.Elapsed += other.Elapsed
	r.Latency.h.Merge(other.Latency.h)
	r.Failed.h.Merge(other.Failed.h)
	r.Late.h.Merge(other.Late.h)
}

// Histogram is a distribution of times, exact to 1 % between a microsecond and
// ten minutes.
type Histogram struct{ h *hdrhistogram.Histogram }

// NewHistogram is an empty one. It is not safe for concurrent use.
func NewHistogram() *Histogram {
	return &Histogram{hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 2)}
}

// Add adds a time.
func (h *Histogram) Add(d time.Duration) {
	// What is out of range counts as its end.
	_ = h.h.RecordValue(min(max(d.Microseconds(), 1), (10 * time.Minute).Microseconds()))
}

// Count is how many times there are.
func (h *Histogram) Count() int64 { return h.h.TotalCount() }

// Quantile is the time that the part q, 0 to 1, does not exceed; 0 if there is
// none.
func (h *Histogram) Quantile(q float64) time.Duration {
	return time.Duration(h.h.ValueAtQuantile(100*q)) * time.Microsecond
}

// Max is the longest time.
func (h *Histogram) Max() time.Duration { return time.Duration(h.h.Max()) * time.Microsecond }

// shard is the results of some callers: one each would be megabytes for
// thousands.
type shard struct {
	mu     sync.Mutex // guards what follows
	result Result
}

const maxShards = 64

func newShards(callers int) []shard {
	shards := make([]shard, min(callers, maxShards))
	for i := range shards {
		shards[i].result = Result{
			Errors: map[string]int64{}, Latency: NewHistogram(), Failed: NewHistogram(), Late: NewHistogram(),
		}
	}
	return shards
}

func (s *shard) add(latency, late time.Duration, err error, kind func(error) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.Late.Add(late)
	if err != nil {
		s.result.Errors[kind(err)]++
		s.result.Failed.Add(latency)
		return
	}
	s.result.Calls++
	s.result.Latency.Add(latency)
}

func merge(shards []shard, elapsed time.Duration) *Result {
	var sum Result
	for i := range shards {
		sum.Add(&shards[i].result)
	}
	sum.Elapsed = elapsed
	return &sum
}
