package quota

import (
	"fmt"
	"time"
)

// Limit names what a caller has used up.
type Limit uint8

const (
	// Requests is the rate of calls and messages of a stream.
	Requests Limit = iota + 1
	// Rows is the rate of rows.
	Rows
	// RowsPerRequest is the size of one request or batch.
	RowsPerRequest
	// Streams is how many streams are open.
	Streams
	// Callers is how many callers the Limiter keeps account of; it is not this
	// caller's doing.
	Callers
	// DayRows and the rest are what budgets bound.
	DayRows
	// DayBytes are bytes received and sent in a day.
	DayBytes
	// DayTime is model time in a day; Max is in microseconds.
	DayTime
	// MonthRows are rows in a month.
	MonthRows
	// MonthBytes are bytes received and sent in a month.
	MonthBytes
	// MonthTime is model time in a month; Max is in microseconds.
	MonthTime
)

var limitNames = [...]string{"unknown", "requests", "rows", "rows per request", "streams", "callers",
	"day-rows", "day-bytes", "day-model-time", "month-rows", "month-bytes", "month-model-time"}

// String is the limit's name: "rows per request", "day-rows".
func (l Limit) String() string { return limitNames[int(l)%len(limitNames)] }

// Budget tells whether the limit is one of a budget: then RetryAfter is until its
// period ends.
func (l Limit) Budget() bool { return l >= DayRows }

// Exceeded is the error of a call that is over a limit. Nothing was taken for it.
type Exceeded struct {
	// Limit is the limit; of several the one that takes longest to recover.
	Limit Limit
	// Max is the most that the limit allows at once.
	Max int64
	// RetryAfter is when the same call would pass if nothing else was taken
	// meanwhile. It is 0 where waiting does not help, or where it cannot be told
	// how long: for a request that is too large, and for streams, which depend on
	// when one is closed.
	RetryAfter time.Duration
}

// Most is Max for people, model time as such.
func (e *Exceeded) Most() string {
	if e.Limit == DayTime || e.Limit == MonthTime {
		return (time.Duration(e.Max) * time.Microsecond).String()
	}
	return fmt.Sprint(e.Max)
}

// Error says which limit, how much it allows and when to come again.
func (e *Exceeded) Error() string {
	s := fmt.Sprintf("quota of %s exceeded: at most %d at once", e.Limit, e.Max)
	if e.Limit.Budget() {
		s = fmt.Sprintf("budget of %s exceeded: %s", e.Limit, e.Most())
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(", again after %v", e.RetryAfter)
	}
	return s
}
