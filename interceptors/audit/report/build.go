package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
)

// Report is the report on what was counted so far. The Counter may go on.
func (c *Counter) Report() *Report {
	r := &Report{
		Log: c.log, Totals: c.totals, Rules: Rules,
		// Empty lists are lists in JSON too.
		Calls: []Call{}, Refusals: []Refusal{}, RefusalsByCaller: []Refusal{},
	}
	if c.log.Records > 0 {
		r.Log.First, r.Log.Last = moment(c.first), moment(c.last)
	}
	if c.length > 0 {
		r.Period.Since = moment(c.since)
	}
	r.Period.Until = moment(c.until)
	r.Totals.Models = len(c.models)

	byReason := make(map[string]*Refusal)
	find := &finder{since: c.since, until: c.until, length: c.length, found: []Finding{}}
	for _, id := range slices.Sorted(maps.Keys(c.callers)) {
		who := c.callers[id]
		if who.now.calls > 0 && id != "" {
			r.Totals.Callers++
		}
		r.add(who, byReason)
		if id != "" {
			find.look(who, c.length > 0 && c.before > 0)
		}
	}
	if c.others != nil {
		r.add(c.others, byReason)
	}
	for _, t := range byReason {
		r.Refusals = append(r.Refusals, *t)
	}
	r.Handshakes = c.handshakes.report()
	r.Events = c.events.report()
	r.Unusual = find.found
	r.sort()
	r.Notes = c.notes()
	return r
}

// add puts what a caller did into the tables.
func (r *Report) add(who *caller, byReason map[string]*Refusal) {
	for key, row := range who.rows {
		r.Calls = append(r.Calls, row.report(Call{Caller: who.id, Model: key.model, Action: key.action}))
	}
	if who.rest != nil {
		r.Calls = append(r.Calls, who.rest.report(Call{Caller: who.id, Others: true}))
	}
	for _, t := range who.reasons {
		if !who.pooled {
			r.RefusalsByCaller = append(r.RefusalsByCaller, *t)
		}
		sum := byReason[t.Reason]
		if sum == nil {
			sum = &Refusal{Reason: t.Reason}
			byReason[t.Reason] = sum
		}
		sum.Code = cmp.Or(t.Code, sum.Code)
		sum.Calls += t.Calls
		sum.Batches += t.Batches
		sum.Callers++
		widen(&sum.First, &sum.Last, t.First.UnixNano())
		widen(&sum.First, &sum.Last, t.Last.UnixNano())
	}
}

func (w *row) report(c Call) Call {
	c.Users, c.UsersMore = len(w.users), w.usersMore
	c.Calls, c.Refused, c.Denied = w.calls, w.refused, w.denied
	c.RowsReceived, c.RowsRun = w.rowsReceived, w.rowsRun
	c.BytesReceived, c.BytesSent = w.bytesReceived, w.bytesSent
	c.ModelSeconds = w.model.Seconds()
	c.P50, c.P99 = w.durations.quantile(0.50).Seconds(), w.durations.quantile(0.99).Seconds()
	c.First, c.Last = moment(w.first), moment(w.last)
	return c
}

func (r *Report) sort() {
	slices.SortFunc(r.Calls, func(a, b Call) int {
		return cmp.Or(othersLast(a, b), cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Caller, b.Caller),
			cmp.Compare(a.Model, b.Model), cmp.Compare(a.Action, b.Action))
	})
	byCount := func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(b.Calls, a.Calls), cmp.Compare(b.Batches, a.Batches), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Caller, b.Caller))
	}
	slices.SortFunc(r.Refusals, byCount)
	slices.SortFunc(r.RefusalsByCaller, byCount)
	order := make(map[string]int, len(Rules))
	for i, rule := range Rules {
		order[rule.Name] = i
	}
	slices.SortStableFunc(r.Unusual, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.Rule], order[b.Rule]), cmp.Compare(a.Caller, b.Caller))
	})
}

// othersLast orders rows for what was not kept apart behind all others.
func othersLast(a, b Call) int {
	switch {
	case a.Others == b.Others:
		return 0
	case a.Others:
		return 1
	}
	return -1
}

// notes say what the report does not know.
func (c *Counter) notes() []string {
	notes := []string{}
	note := func(format string, a ...any) { notes = append(notes, fmt.Sprintf(format, a...)) }
	switch {
	case c.log.Records == 0:
		note("the log has no records")
	case c.totals.Records == 0:
		note("the log has no records of the period; it has them from %s to %s", stamp(c.first), stamp(c.last))
	}
	if c.before == 0 && c.log.Records > 0 {
		note("the log has nothing before the period, so nothing is compared with the past: only %s and %s are looked for", RuleProbing, RuleAddresses)
	}
	if c.removed > 0 {
		note("records 1 to %d may have been removed by retention: what was before them is not known", c.removed)
	}
	if c.after > 0 {
		note("%d records are later than the period", c.after)
	}
	if n := c.totals.Sealed; n > 0 {
		note("%d records of the period are sealed, and only counted: their key is needed to read them", n)
	}
	if c.others != nil {
		note("only the first %d callers are kept apart; %s of others in the period are counted together", maxCallers, calls(c.others.now.calls))
	}
	if c.rows == maxRows {
		note("only %d rows of caller, model and action are kept apart", maxRows)
	}
	full := 0
	for _, who := range c.callers {
		if len(who.rows) == maxModelsPerCaller {
			full++
		}
	}
	if full > 0 {
		note("%d callers named %d or more models and actions: of each the first %d are kept apart", full, maxModelsPerCaller, maxModelsPerCaller)
	}
	if c.handshakes.others != nil {
		note("only the first %d peers of refused handshakes are kept apart", maxHandshakes)
	}
	if len(c.models) == maxModels {
		note("there are %d or more names of models", maxModels)
	}
	if n := c.totals.Unrecorded; n > 0 {
		note("%d more handshakes were refused too fast to be recorded", n)
	}
	return notes
}

func moment(at int64) time.Time { return time.Unix(0, at).UTC() }

// codeName is the canonical name of a status code.
func codeName(c uint32) string { return code.Code(c).String() } //nolint:gosec // a status code is a small number
