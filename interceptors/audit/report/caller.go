package report

import (
	"hash/maphash"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// caller is the account of one caller: what it did in the period, and of the
// time before as much as it takes to compare.
type caller struct {
	id string
	// pooled is true of the account that all callers without one share.
	pooled bool

	past, now span
	// periods are the ones before this one, as long as it, the latest first.
	periods [maxPeriods]span
	// days are distinct days before the period with calls, as many as are needed.
	days []int64
	// hours are calls before the period by hour of the day, UTC.
	hours [24]uint32
	// hoursNow are calls in the period likewise.
	hoursNow [24]span
	atOnce   atOnce

	rows map[rowKey]*row
	rest *row
	// reasons are refusals in the period.
	reasons map[string]*Refusal
}

// span counts calls over some time.
type span struct {
	calls, denied uint64
	first, last   int64
}

func (s *span) add(at int64, denied bool) {
	if s.calls == 0 || at < s.first {
		s.first = at
	}
	if s.calls == 0 || at > s.last {
		s.last = at
	}
	s.calls++
	if denied {
		s.denied++
	}
}

type rowKey struct{ model, action string }

// row is what a caller did to a model by an action.
type row struct {
	span
	refused                  uint64
	rowsReceived, rowsRun    uint64
	bytesReceived, bytesSent uint64
	model                    time.Duration
	durations                histogram
	users                    map[uint64]struct{}
	usersMore                bool
	lastIssuer, lastSubject  string // spare the hash where calls of a user come in a row
}

func newCaller(id string, pooled bool) *caller {
	return &caller{id: id, pooled: pooled, rows: make(map[rowKey]*row), reasons: make(map[string]*Refusal)}
}

// addPast counts a call before the period.
func (c *caller) addPast(r *auditv1.Record, at, since, length int64, denied bool) {
	c.past.add(at, denied)
	c.hours[hourOf(at)]++
	if day := at / int64(24*time.Hour); len(c.days) < usualDays && !contains(c.days, day) {
		c.days = append(c.days, day)
	}
	if k := (since - 1 - at) / length; k < maxPeriods {
		c.periods[k].add(at, denied)
	}
	c.atOnce.add(r, at, &c.atOnce.past)
}

// addNow counts a call of the period.
func (c *caller) addNow(r *auditv1.Record, at int64, denied bool) {
	c.now.add(at, denied)
	c.hoursNow[hourOf(at)].add(at, denied)
	c.atOnce.add(r, at, &c.atOnce.now)
}

// refusals counts why a call of the period was refused, or batches of it.
func (c *caller) refusals(r *auditv1.Record, at int64) {
	if r.GetCode() != 0 {
		t := c.tally(r.GetReason())
		t.Calls++
		t.Code = codeName(r.GetCode())
		widen(&t.First, &t.Last, at)
	}
	for reason, n := range r.GetRefused() {
		t := c.tally(reason)
		t.Batches += n
		widen(&t.First, &t.Last, at)
	}
}

func (c *caller) tally(reason string) *Refusal {
	reason = boundedKey(c.reasons, reason)
	t := c.reasons[reason]
	if t == nil {
		t = &Refusal{Caller: c.id, Reason: reason}
		c.reasons[reason] = t
	}
	return t
}

func (w *row) add(r *auditv1.Record, at int64, denied bool, seed maphash.Seed) {
	w.span.add(at, denied)
	if r.GetCode() == 0 {
		w.durations.add(r.GetDuration().AsDuration())
	} else {
		w.refused++
	}
	w.rowsReceived += r.GetRowsReceived()
	w.rowsRun += r.GetRowsRun()
	w.bytesReceived += r.GetBytesReceived()
	w.bytesSent += r.GetBytesSent()
	w.model += r.GetModelDuration().AsDuration()
	u := r.GetUser()
	if u == nil || len(w.users) > 0 && u.GetSubject() == w.lastSubject && u.GetIssuer() == w.lastIssuer {
		return
	}
	w.lastIssuer, w.lastSubject = u.GetIssuer(), u.GetSubject()
	user := maphash.String(seed, u.GetIssuer()+"\x00"+u.GetSubject())
	if _, ok := w.users[user]; ok {
		return
	}
	if len(w.users) == maxUsersPerRow {
		w.usersMore = true
		return
	}
	if w.users == nil {
		w.users = make(map[uint64]struct{})
	}
	w.users[user] = struct{}{}
}

// hourOf is the hour of the day, UTC.
func hourOf(at int64) int {
	const day = int64(24 * time.Hour)
	return int(((at%day + day) % day) / int64(time.Hour))
}
