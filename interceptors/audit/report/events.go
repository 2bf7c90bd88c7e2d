package report

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// Categories of events.
const (
	Policy     = "policy"
	Server     = "server"
	AuditLog   = "log"
	Model      = "model"
	Identity   = "identity"
	Connection = "connection"
	Other      = "other"
)

// eventTexts are how the details of events begin, and what they are about.
var eventTexts = []struct{ prefix, category string }{
	{"policy ", Policy},
	{"shadow policy ", Policy},
	{"server ", Server},
	{"audit log", AuditLog},
	{"model ", Model},
	{"identity: ", Identity},
	{"connection from ", Connection},
}

// faults are parts of the details of events that somebody should look after.
var faults = []string{"refused", "not loaded", "torn tail", "not recorded", "not in order"}

// Classify tells the category of an event from its detail, and whether somebody
// should look after it.
func Classify(detail string) (category string, fault bool) {
	category = Other
	for _, t := range eventTexts {
		if strings.HasPrefix(detail, t.prefix) {
			category = t.category
			break
		}
	}
	if strings.HasSuffix(detail, tooFast) {
		category = AuditLog
	}
	// Names are quoted, and what somebody else said follows a colon.
	said, _, _ := strings.Cut(quoted.ReplaceAllString(detail, ""), ": ")
	if category == AuditLog {
		said = detail
	}
	return category, slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(said, f) })
}

var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// tooFast ends the event that counts calls without a record.
const tooFast = "not recorded: they came too fast"

// eventLog keeps the last events of each category.
type eventLog struct {
	categories map[string]*Events
	// running is whether the last that was heard of the server was its start.
	running bool
}

// add counts the event if it is of the period; of those before it, it takes in
// what the period's need to be understood.
func (l *eventLog) add(e Event, inPeriod bool) {
	category, fault := Classify(e.Detail)
	e.Fault = fault
	if category == Server {
		started := strings.HasPrefix(e.Detail, "server started")
		if started && l.running {
			e.Detail += " (the one before it did not stop in order)"
			e.Fault = true
		}
		l.running = started
	}
	if inPeriod {
		l.keep(category, e)
	}
}

func (l *eventLog) keep(category string, e Event) {
	c := l.categories[category]
	if c == nil {
		c = &Events{Category: category}
		l.categories[category] = c
	}
	c.Count++
	if len(c.Latest) == maxEvents {
		c.Latest = append(c.Latest[:0], c.Latest[1:]...)
	}
	c.Latest = append(c.Latest, e)
}

func (l *eventLog) report() []Events {
	out := make([]Events, 0, len(l.categories))
	for _, c := range l.categories {
		out = append(out, *c)
	}
	order := []string{Policy, Server, AuditLog, Model, Identity, Connection, Other}
	slices.SortFunc(out, func(a, b Events) int {
		return cmp.Compare(slices.Index(order, a.Category), slices.Index(order, b.Category))
	})
	return out
}

// eventOf is the event that a record tells of.
func eventOf(r *auditv1.Record, at int64) Event {
	return Event{Sequence: r.GetSequence(), Time: time.Unix(0, at).UTC(), Detail: r.GetDetail()}
}
