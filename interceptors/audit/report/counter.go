package report

import (
	"errors"
	"hash/maphash"
	"math"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// What is kept apart. Beyond it things are counted together, which the report
// says: names of models and claimed identities are chosen by whoever calls.
const (
	maxCallers         = 10_000
	maxRows            = 20_000 // over all callers
	maxModelsPerCaller = 256    // with their actions
	maxUsersPerRow     = 256
	maxHandshakes      = 10_000
	maxModels          = 20_000
	maxReasons         = 64  // in one table
	maxEvents          = 100 // of a category
	maxPeriods         = 30  // before the one reported on
)

// othersKey stands for what found no room in a table.
const othersKey = "(others)"

// Config is what to report on. Since is the first moment of the period, Until
// the first after it. A zero Since is the beginning of the log; then there is
// nothing to compare with.
type Config struct {
	Since, Until time.Time
}

// Counter makes a Report of records given one by one. It is for one goroutine.
type Counter struct {
	since, until int64 // nanoseconds since 1970
	length       int64 // of the period; 0 if nothing is compared
	seed         maphash.Seed

	log         Log
	first, last int64
	before      uint64 // records before the period
	after       uint64 // records after it
	totals      Totals
	rows        int
	callers     map[string]*caller
	others      *caller
	models      map[string]struct{}
	handshakes  handshakes
	events      eventLog
	removed     uint64
}

// New returns a Counter that has seen nothing.
func New(cfg Config) (*Counter, error) {
	if cfg.Until.IsZero() {
		return nil, errors.New("report: the end of the period is not given")
	}
	c := &Counter{
		since: math.MinInt64, until: cfg.Until.UnixNano(),
		seed:    maphash.MakeSeed(),
		callers: make(map[string]*caller), models: make(map[string]struct{}),
		handshakes: handshakes{rows: make(map[handshakeKey]*Handshake)},
		events:     eventLog{categories: make(map[string]*Events)},
	}
	if !cfg.Since.IsZero() {
		c.since = cfg.Since.UnixNano()
		c.length = c.until - c.since
		if c.length <= 0 {
			return nil, errors.New("report: the period ends before it begins")
		}
	}
	return c, nil
}

// Add counts a record. Records come in the order of their sequence; their times
// need not, as a call is recorded when it ends. It keeps strings of r.
func (c *Counter) Add(r *auditv1.Record) {
	at := r.GetTime().GetSeconds()*int64(time.Second) + int64(r.GetTime().GetNanos())
	if c.log.Records == 0 || at < c.first {
		c.first = at
	}
	if c.log.Records == 0 || at > c.last {
		c.last = at
	}
	c.log.Records++
	inPeriod := at >= c.since && at < c.until
	switch {
	case inPeriod:
		c.totals.Records++
	case at < c.since:
		c.before++
	default:
		c.after++
		return
	}
	if len(r.GetSealed()) > 0 {
		if inPeriod {
			c.totals.Sealed++
		}
		return
	}
	switch r.GetKind() {
	case auditv1.Kind_KIND_CALL:
		c.call(r, at, inPeriod)
	case auditv1.Kind_KIND_HANDSHAKE:
		if inPeriod {
			c.totals.Handshakes++
			c.totals.Unrecorded += c.handshakes.add(r, at)
		}
	case auditv1.Kind_KIND_EVENT:
		if inPeriod {
			c.totals.Events++
		}
		c.events.add(eventOf(r, at), inPeriod)
	case auditv1.Kind_KIND_RETENTION:
		c.removed = max(c.removed, r.GetRemovedThrough())
		if inPeriod {
			c.totals.Own++
		}
	case auditv1.Kind_KIND_KEY, auditv1.Kind_KIND_UNSPECIFIED:
		if inPeriod {
			c.totals.Own++
		}
	}
}

// call counts a call: for its caller's past, or for all that the period shows.
func (c *Counter) call(r *auditv1.Record, at int64, inPeriod bool) {
	who := c.caller(r.GetCaller().GetSpiffeId())
	denied := isDenied(r.GetCode())
	if !inPeriod {
		who.addPast(r, at, c.since, c.length, denied)
		return
	}
	t := &c.totals
	t.Calls++
	if r.GetCode() != 0 {
		t.Refused++
	}
	if denied {
		t.Denied++
	}
	t.RowsReceived += r.GetRowsReceived()
	t.RowsRun += r.GetRowsRun()
	t.BytesReceived += r.GetBytesReceived()
	t.BytesSent += r.GetBytesSent()
	t.ModelSeconds += r.GetModelDuration().AsDuration().Seconds()
	if m := r.GetModel(); m != "" && len(c.models) < maxModels {
		c.models[m] = struct{}{}
	}
	who.addNow(r, at, denied)
	who.refusals(r, at)
	c.row(who, r).add(r, at, denied, c.seed)
}

// caller is the account of a SPIFFE ID, or of all that found no room.
func (c *Counter) caller(id string) *caller {
	if who := c.callers[id]; who != nil {
		return who
	}
	if len(c.callers) == maxCallers {
		if c.others == nil {
			c.others = newCaller("", true)
		}
		return c.others
	}
	who := newCaller(id, false)
	c.callers[id] = who
	return who
}

// row is where the call is counted among its caller's.
func (c *Counter) row(who *caller, r *auditv1.Record) *row {
	key := rowKey{r.GetModel(), r.GetAction()}
	if row := who.rows[key]; row != nil {
		return row
	}
	if who.pooled || len(who.rows) == maxModelsPerCaller || c.rows == maxRows {
		if who.rest == nil {
			who.rest = new(row)
		}
		return who.rest
	}
	row := new(row)
	who.rows[key] = row
	c.rows++
	return row
}

// isDenied tells whether a code says that the caller was not let in, or not to the
// model.
func isDenied(code uint32) bool { return code == 7 || code == 16 }

// boundedKey is key if it is in the table or there is room for it.
func boundedKey[T any](table map[string]T, key string) string {
	if _, ok := table[key]; !ok && len(table) >= maxReasons {
		return othersKey
	}
	return key
}

// widen makes the span from first to last hold a moment.
func widen(first, last *time.Time, at int64) {
	t := time.Unix(0, at).UTC()
	if first.IsZero() || t.Before(*first) {
		*first = t
	}
	if t.After(*last) {
		*last = t
	}
}
