package interceptors

import (
	"math"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
)

// The response headers that say how much a caller may use, and how much it has
// left: structured fields of draft-ietf-httpapi-ratelimit-headers. They come with
// the header of an answer, and so of a stream, and with a refusal by a quota.
const (
	RateLimitPolicyHeader = "ratelimit-policy"
	RateLimitHeader       = "ratelimit"
)

// granted is what the gates make once of a grant.
type granted struct {
	limits quota.Limits
	policy string // the header
}

// grants are those of the grants of one policy that were met. They are replaced as
// a whole, so that a look costs no lock.
type grants struct {
	index *policy.Index
	known map[*policy.Grant]*granted
}

// maxGrants bounds the grants that are kept; a policy that makes more begins anew.
const maxGrants = 1024

// granted is what the call's grant gives.
func (c *Chain) granted(call *Call) *granted {
	known := c.grants.Load()
	if known != nil && known.index == call.index {
		if g := known.known[call.grant]; g != nil {
			return g
		}
	}
	g := &granted{limits: quotaLimits(&call.grant.Limits)}
	g.policy = policyHeader(&g.limits)
	next := &grants{index: call.index, known: map[*policy.Grant]*granted{call.grant: g}}
	if known != nil && known.index == call.index && len(known.known) < maxGrants {
		for grant, g := range known.known {
			next.known[grant] = g
		}
	}
	c.grants.Store(next) // who comes at the same time may undo it: it is made again
	return g
}

// quotaLimits are the limits in the words of the engine that holds them.
func quotaLimits(l *policy.Limits) quota.Limits {
	return quota.Limits{
		RequestsPerSecond: l.RequestsPerSecond, RequestBurst: l.RequestBurst,
		RowsPerSecond: l.RowsPerSecond, RowBurst: l.RowBurst,
		MaxRowsPerRequest: l.MaxRowsPerRequest, MaxStreams: l.MaxStreams,
		Day: quota.Budget(l.Day), Month: quota.Budget(l.Month), Alone: l.Alone,
	}
}

// rateUnits are the units that the headers use where they are not requests. Model
// time is in milliseconds.
var rateUnits = [quota.Kinds]string{
	quota.KindRows:    `;qu="rows"`,
	quota.KindDayRows: `;qu="rows"`, quota.KindDayBytes: `;qu="content-bytes"`, quota.KindDayTime: `;qu="milliseconds"`,
	quota.KindMonthRows: `;qu="rows"`, quota.KindMonthBytes: `;qu="content-bytes"`, quota.KindMonthTime: `;qu="milliseconds"`,
}

// shown is an amount as the headers have it.
func shown(k quota.Kind, n int64) int64 {
	const longest = 999_999_999_999_999 // of a structured field's integer
	if k == quota.KindDayTime || k == quota.KindMonthTime {
		n /= 1000
	}
	return min(n, longest)
}

// policyHeader says how much may be used: q in a window of w seconds, in which a
// bucket refills. A month has no window: they differ.
func policyHeader(l *quota.Limits) string {
	var b []byte
	for k, most := range l.Most() {
		if most == 0 {
			continue
		}
		kind, window := quota.Kind(k), 0.0
		switch kind {
		case quota.KindRequests:
			window = math.Ceil(float64(most) / l.RequestsPerSecond)
		case quota.KindRows:
			window = math.Ceil(float64(most) / l.RowsPerSecond)
		case quota.KindDayRows, quota.KindDayBytes, quota.KindDayTime:
			window = (24 * time.Hour).Seconds()
		default:
		}
		b = item(b, kind)
		b = append(b, ";q="...)
		b = strconv.AppendInt(b, shown(kind, most), 10)
		if window >= 1 && window < 1e12 {
			b = append(b, ";w="...)
			b = strconv.AppendInt(b, int64(window), 10)
		}
		b = append(b, rateUnits[kind]...)
	}
	return string(b)
}

// standingHeader says what is left, and in how many seconds all of it will be
// there again.
func standingHeader(l *quota.Limits, s *quota.Standing) string {
	var few [256]byte
	b := few[:0]
	for k, most := range l.Most() {
		kind := quota.Kind(k)
		if most == 0 || !s.Knows(kind) {
			continue
		}
		b = item(b, kind)
		b = append(b, ";r="...)
		b = strconv.AppendInt(b, shown(kind, s.Left[k]), 10)
		if reset := s.Reset[k]; reset > 0 {
			b = append(b, ";t="...)
			b = strconv.AppendInt(b, int64((reset+time.Second-1)/time.Second), 10)
		}
	}
	return string(b)
}

func item(b []byte, k quota.Kind) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(b, '"')
	b = append(b, k.String()...)
	return append(b, '"')
}

// header sets the response header, once. With g it says what the caller may use,
// and how it stands if that is known.
func (c *Call) header(ss grpc.ServerStream, g *granted) error {
	if c.headed.Swap(true) {
		return nil
	}
	c.headers[0] = c.ID
	md := metadata.MD{CallIDHeader: c.headers[0:1:1]}
	if g != nil {
		c.headers[1] = g.policy
		md[RateLimitPolicyHeader] = c.headers[1:2:2]
		if c.standing.Known {
			c.headers[2] = standingHeader(&g.limits, &c.standing)
			md[RateLimitHeader] = c.headers[2:3:3]
		}
	}
	return ss.SetHeader(md)
}
