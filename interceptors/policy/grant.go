package policy

import (
	"math"
	"slices"
	"strings"
	"time"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// Limits is how much one caller may use, with every default resolved.
type Limits struct {
	// RequestsPerSecond is the rate of calls and messages of a stream.
	RequestsPerSecond float64 `json:"requests_per_second"`
	// RequestBurst is the most calls and messages at once.
	RequestBurst int64 `json:"request_burst"`
	// RowsPerSecond is the rate of rows.
	RowsPerSecond float64 `json:"rows_per_second"`
	// RowBurst is the most rows at once.
	RowBurst int64 `json:"row_burst"`
	// MaxRowsPerRequest is the most rows in one request or batch.
	MaxRowsPerRequest int64 `json:"max_rows_per_request"`
	// MaxStreams is the most streams open at the same time.
	MaxStreams int64 `json:"max_streams"`
	// Day and Month are budgets.
	Day   Budget `json:"day,omitzero"`
	Month Budget `json:"month,omitzero"`
	// Alone says that each replica counts for itself while the store of quotas
	// does not answer (on_store_failure: LOCAL).
	Alone bool `json:"alone,omitempty"`
}

// Budget is how much of a period's budget one caller has; what is 0 is not
// bounded.
type Budget struct {
	// Rows that models run.
	Rows int64 `json:"rows,omitempty"`
	// Bytes of messages received and sent.
	Bytes int64 `json:"bytes,omitempty"`
	// ModelTime is the time that models run, in nanoseconds.
	ModelTime time.Duration `json:"model_time_ns,omitempty"`
}

// defaultMaxStreams holds where no role says how many: none of them allows
// PREDICT_STREAM, and the streams are reflection and the watching of health.
const defaultMaxStreams = 4

func newLimits(l *configv1.Limits) Limits {
	or := func(v uint64, otherwise float64) int64 {
		if v == 0 {
			return int64(math.Ceil(otherwise))
		}
		return int64(v) //nolint:gosec // the schema bounds every limit by 1e12
	}
	rowBurst := or(l.GetRowBurst(), l.GetRowsPerSecond())
	limits := Limits{
		RequestsPerSecond: l.GetRequestsPerSecond(),
		RequestBurst:      or(l.GetRequestBurst(), l.GetRequestsPerSecond()),
		RowsPerSecond:     l.GetRowsPerSecond(),
		RowBurst:          rowBurst,
		MaxRowsPerRequest: or(l.GetMaxRowsPerRequest(), float64(rowBurst)),
		MaxStreams:        int64(l.GetMaxStreams()),
		Alone:             l.GetOnStoreFailure() == configv1.OnStoreFailure_LOCAL,
	}
	for _, b := range l.GetBudgets() {
		budget := Budget{
			Rows: int64(b.GetRows()), Bytes: int64(b.GetBytes()), //nolint:gosec // the schema bounds both by 1e15
			ModelTime: b.GetModelTime().AsDuration().Truncate(time.Microsecond),
		}
		if b.GetPeriod() == configv1.Period_MONTH {
			limits.Month = budget
		} else {
			limits.Day = budget
		}
	}
	return limits
}

// mostGenerous is the greater of each limit. No budget is more generous than any.
func mostGenerous(a, b Limits) Limits {
	return Limits{
		RequestsPerSecond: max(a.RequestsPerSecond, b.RequestsPerSecond),
		RequestBurst:      max(a.RequestBurst, b.RequestBurst),
		RowsPerSecond:     max(a.RowsPerSecond, b.RowsPerSecond),
		RowBurst:          max(a.RowBurst, b.RowBurst),
		MaxRowsPerRequest: max(a.MaxRowsPerRequest, b.MaxRowsPerRequest),
		MaxStreams:        max(a.MaxStreams, b.MaxStreams),
		Day:               greater(a.Day, b.Day),
		Month:             greater(a.Month, b.Month),
		Alone:             a.Alone || b.Alone,
	}
}

func greater(a, b Budget) Budget {
	return Budget{Rows: unlessNone(a.Rows, b.Rows), Bytes: unlessNone(a.Bytes, b.Bytes), ModelTime: unlessNone(a.ModelTime, b.ModelTime)}
}

// unlessNone is the greater of two bounds, of which 0 is none.
func unlessNone[T int64 | time.Duration](a, b T) T {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// Grant is what a set of roles gives together. It is shared by all decisions
// that rest on the same roles and must not be changed.
type Grant struct {
	// Roles are the roles that allow the call, sorted by name.
	Roles []string `json:"roles"`
	// Limits has the most generous value of each limit of these roles.
	Limits Limits `json:"limits"`
	// Key names the set of roles. It is the same in every generation of the
	// policy, so that what a caller has used up outlives a reload.
	Key string `json:"key"`
}

// newGrant orders roles by name, in place.
func newGrant(roles []*role) *Grant {
	slices.SortFunc(roles, func(a, b *role) int { return strings.Compare(a.name, b.name) })
	g := &Grant{}
	for i, r := range roles {
		g.Roles = append(g.Roles, r.name)
		if i == 0 {
			g.Limits = r.limits
		}
		g.Limits = mostGenerous(g.Limits, r.limits)
	}
	if g.Limits.MaxStreams == 0 {
		g.Limits.MaxStreams = defaultMaxStreams
	}
	g.Key = strings.Join(g.Roles, ",") // no role's name has a comma
	return g
}
