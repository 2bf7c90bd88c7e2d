package policy

import (
	"math"
	"slices"
	"strings"

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
	return Limits{
		RequestsPerSecond: l.GetRequestsPerSecond(),
		RequestBurst:      or(l.GetRequestBurst(), l.GetRequestsPerSecond()),
		RowsPerSecond:     l.GetRowsPerSecond(),
		RowBurst:          rowBurst,
		MaxRowsPerRequest: or(l.GetMaxRowsPerRequest(), float64(rowBurst)),
		MaxStreams:        int64(l.GetMaxStreams()),
	}
}

// mostGenerous is the greater of each limit.
func mostGenerous(a, b Limits) Limits {
	return Limits{
		RequestsPerSecond: max(a.RequestsPerSecond, b.RequestsPerSecond),
		RequestBurst:      max(a.RequestBurst, b.RequestBurst),
		RowsPerSecond:     max(a.RowsPerSecond, b.RowsPerSecond),
		RowBurst:          max(a.RowBurst, b.RowBurst),
		MaxRowsPerRequest: max(a.MaxRowsPerRequest, b.MaxRowsPerRequest),
		MaxStreams:        max(a.MaxStreams, b.MaxStreams),
	}
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
	for _, r := range roles {
		g.Roles = append(g.Roles, r.name)
		g.Limits = mostGenerous(g.Limits, r.limits)
	}
	if g.Limits.MaxStreams == 0 {
		g.Limits.MaxStreams = defaultMaxStreams
	}
	g.Key = strings.Join(g.Roles, ",") // no role's name has a comma
	return g
}
