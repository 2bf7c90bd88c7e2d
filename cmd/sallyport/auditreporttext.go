package main

import (
	"bufio"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit/report"
)

// reportText writes a report for people. Errors of writing are those of w's
// Flush.
type reportText struct {
	w   *bufio.Writer
	dir string
	top int
}

func (t *reportText) write(r *report.Report) {
	t.totals(r)
	t.calls(r.Calls)
	t.refusals(r)
	t.handshakes(r.Handshakes)
	t.unusual(r)
	t.events(r.Events)
	if len(r.Notes) > 0 {
		t.section("Notes")
		for _, note := range r.Notes {
			for i, line := range wrap(printable(note), 110) {
				t.printf("%s%s\n", []string{"- ", "  "}[min(i, 1)], line)
			}
		}
	}
}

func (t *reportText) printf(format string, a ...any) {
	_, _ = fmt.Fprintf(t.w, format, a...) // Flush returns it
}

func (t *reportText) section(name string) { t.printf("\n%s\n", name) }

// table writes lines of cells in columns; those that are not words stand right.
func (t *reportText) table(lines [][]string) {
	tw := tabwriter.NewWriter(t.w, 0, 0, 2, ' ', 0)
	for _, cells := range lines {
		for i, c := range cells {
			cells[i] = printable(c)
		}
		_, _ = fmt.Fprintln(tw, "  "+strings.Join(cells, "\t")) // Flush returns it
	}
	_ = tw.Flush() // so does that of t.w
}

// shown is how many of n lines to write.
func (t *reportText) shown(n int) int {
	if t.top == 0 {
		return n
	}
	return min(n, t.top)
}

// more says how many lines are left out.
func (t *reportText) more(n int) {
	if left := n - t.shown(n); left > 0 {
		t.printf("  … %d more; --top 0 shows all\n", left)
	}
}

func (t *reportText) totals(r *report.Report) {
	since := "the beginning"
	if !r.Period.Since.IsZero() {
		since = r.Period.Since.Format(time.RFC3339)
	}
	t.printf("Period  %s to %s\n", since, r.Period.Until.Format(time.RFC3339))
	if r.Log.Records > 0 {
		t.printf("Log     %s, from %s to %s\n", count64(r.Log.Records, "record"), r.Log.First.Format(time.RFC3339), r.Log.Last.Format(time.RFC3339))
	}
	s := r.Totals
	t.printf("Calls   %d by %s to %s: %d answered, %d refused, %d of them denied\n",
		s.Calls, count(s.Callers, "caller"), count(s.Models, "model"), s.Calls-s.Refused, s.Refused, s.Denied)
	t.printf("Work    %d rows asked for, %d run, %s of model time, %s in, %s out\n",
		s.RowsReceived, s.RowsRun, shortSeconds(s.ModelSeconds), shortBytes(s.BytesReceived), shortBytes(s.BytesSent))
	t.printf("Others  %s refused, %s, %d of the log's own\n", count64(s.Handshakes+s.Unrecorded, "handshake"), count64(s.Events, "event"), s.Own)
}

func (t *reportText) calls(rows []report.Call) {
	t.section("Who called what (times of answered calls; UTC)")
	if len(rows) == 0 {
		t.printf("  nobody\n")
		return
	}
	shown := slices.Clone(rows[:t.shown(len(rows))])
	rank := make(map[string]int) // callers in the order of their busiest row
	for i, c := range shown {
		if _, ok := rank[c.Caller]; !ok {
			rank[c.Caller] = i
		}
	}
	slices.SortStableFunc(shown, func(a, b report.Call) int { return cmp.Compare(rank[a.Caller], rank[b.Caller]) })
	lines := [][]string{{"MODEL", "ACTION", "USERS", "CALLS", "REFUSED", "ROWS", "BYTES", "MODEL TIME", "P50", "P99", "FIRST", "LAST"}}
	callers := []string{""}
	for _, c := range shown {
		users := "-"
		if c.Users > 0 {
			users = fmt.Sprint(c.Users)
		}
		if c.UsersMore {
			users += "+"
		}
		model := cmp.Or(shorten(c.Model, 24), "-")
		if c.Others {
			model = "(others)"
		}
		caller := shortCaller(c.Caller)
		if c.Others && c.Caller == "" {
			caller = "(other callers)"
		}
		callers = append(callers, caller)
		lines = append(lines, []string{
			model, cmp.Or(c.Action, "-"), users, shortCount(c.Calls), shortCount(c.Refused), shortCount(c.RowsReceived),
			shortBytes(c.BytesReceived + c.BytesSent), shortSeconds(c.ModelSeconds), shortSeconds(c.P50), shortSeconds(c.P99),
			shortTime(c.First), shortTime(c.Last),
		})
	}
	t.grouped(callers, lines)
	t.more(len(rows))
}

// grouped is table with a line of its own before the lines of each group.
func (t *reportText) grouped(groups []string, lines [][]string) {
	var b strings.Builder
	plain := &reportText{w: bufio.NewWriter(&b)}
	plain.table(lines)
	_ = plain.w.Flush() // into memory
	at := 0
	for line := range strings.Lines(b.String()) {
		if at > 0 && groups[at] != groups[at-1] {
			t.printf("  %s\n", printable(groups[at]))
		}
		t.printf("  %s\n", strings.TrimRight(line, " \n"))
		at++
	}
}

func (t *reportText) refusals(r *report.Report) {
	t.section("Refused, by reason")
	if len(r.Refusals) == 0 {
		t.printf("  nothing\n")
		return
	}
	lines := [][]string{{"REASON", "CODE", "CALLS", "BATCHES", "CALLERS", "FIRST", "LAST"}}
	for _, f := range r.Refusals[:t.shown(len(r.Refusals))] {
		lines = append(lines, []string{cmp.Or(f.Reason, "-"), cmp.Or(f.Code, "-"), shortCount(f.Calls), shortCount(f.Batches), fmt.Sprint(f.Callers), shortTime(f.First), shortTime(f.Last)})
	}
	t.table(lines)
	t.more(len(r.Refusals))
	t.section("Refused, by caller")
	lines = [][]string{{"CALLER", "REASON", "CALLS", "BATCHES", "FIRST", "LAST"}}
	for _, f := range r.RefusalsByCaller[:t.shown(len(r.RefusalsByCaller))] {
		lines = append(lines, []string{shorten(shortCaller(f.Caller), 48), cmp.Or(f.Reason, "-"), shortCount(f.Calls), shortCount(f.Batches), shortTime(f.First), shortTime(f.Last)})
	}
	t.table(lines)
	t.more(len(r.RefusalsByCaller))
}

func (t *reportText) handshakes(rows []report.Handshake) {
	t.section("Refused handshakes (what is claimed is not proved)")
	if len(rows) == 0 {
		t.printf("  none\n")
		return
	}
	lines := [][]string{{"CLAIMED", "PEER", "COUNT", "FIRST", "LAST", "REASONS"}}
	for _, h := range rows[:t.shown(len(rows))] {
		claimed, peer := cmp.Or(strings.TrimPrefix(h.Claimed, "spiffe://"), "-"), cmp.Or(h.Peer, "-")
		if h.Others {
			claimed, peer = "(others)", "(others)"
		}
		reasons := make([]string, 0, len(h.Reasons))
		for _, reason := range slices.Sorted(maps.Keys(h.Reasons)) {
			reasons = append(reasons, fmt.Sprintf("%s %d", cmp.Or(reason, "-"), h.Reasons[reason]))
		}
		lines = append(lines, []string{shorten(claimed, 40), shorten(peer, 40), shortCount(h.Count), shortTime(h.First), shortTime(h.Last), strings.Join(reasons, ", ")})
	}
	t.table(lines)
	t.more(len(rows))
}

func (t *reportText) unusual(r *report.Report) {
	t.section("Unusual callers")
	var quiet []string
	for _, rule := range r.Rules {
		var found []report.Finding
		for _, f := range r.Unusual {
			if f.Rule == rule.Name {
				found = append(found, f)
			}
		}
		if len(found) == 0 {
			quiet = append(quiet, rule.Name)
			continue
		}
		for i, line := range wrap(rule.Text, 100) {
			t.printf("  %-11s%s\n", []string{rule.Name + ":", ""}[min(i, 1)], line)
		}
		for _, f := range found[:t.shown(len(found))] {
			t.printf("    %s\n      %s\n", strings.Join(wrap(printable(shortCaller(f.Caller)+": "+f.Why), 106), "\n      "), showCommand(t.dir, f.Show))
		}
		t.more(len(found))
	}
	if len(quiet) > 0 {
		t.printf("  nothing by the rules %s; 'sallyport audit report --help' has them\n", strings.Join(quiet, ", "))
	}
}

func (t *reportText) events(all []report.Events) {
	t.section("Server, policy and log")
	if len(all) == 0 {
		t.printf("  nothing\n")
	}
	for _, c := range all {
		latest := c.Latest[len(c.Latest)-t.shown(len(c.Latest)):]
		t.printf("  %s: %d", c.Category, c.Count)
		if uint64(len(latest)) < c.Count {
			t.printf(", the last %d", len(latest))
		}
		t.printf("\n")
		for _, e := range latest {
			mark := " "
			if e.Fault {
				mark = "!"
			}
			t.printf("  %s %s  %s\n", mark, e.Time.Format(time.RFC3339), printable(e.Detail))
		}
	}
}
