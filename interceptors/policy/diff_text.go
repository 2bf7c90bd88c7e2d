package policy

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// mark begins a line about something that changes so.
func (c Change) mark() string { return string("=+-~"[min(int(c), 3)]) }

// WriteText writes the difference for a person to read: "+" what is gained, "-"
// what is lost, "~" what has other conditions or limits, "=" what stays as it is
// within something that does not. It writes nothing if the policies do not differ.
func (d Diff) WriteText(to io.Writer) error {
	w := bufio.NewWriter(to) // keeps the first error for Flush
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	for _, c := range d.Callers {
		line("%s", c.Callers)
		if c.Unchanged {
			line("  = everything, as before")
		}
		if b := c.Blocked; b != nil {
			line("  %s blocked%s", b.Change.mark(), inBrackets(b.Reason))
		}
		for _, b := range c.Bound {
			user := ""
			if b.User != "" {
				user = " for users of " + b.User
			}
			line("  %s role %s%s", b.Change.mark(), b.Role, user)
		}
		for _, a := range c.Access {
			line("  %s", a)
		}
	}
	if len(d.Addresses) > 0 {
		line("addresses")
	}
	for _, a := range d.Addresses {
		line("  %s blocked %s%s", a.Change.mark(), a.Range, inBrackets(a.Reason))
	}
	if len(d.Roles) > 0 {
		line("roles")
	}
	for _, r := range d.Roles {
		line("  %s %s%s", r.Change.mark(), r.Role, r.limits())
	}
	return w.Flush()
}

func inBrackets(reason string) string {
	if reason == "" {
		return ""
	}
	quoted := strconv.Quote(reason) // for what could steer a terminal
	return " (" + quoted[1:len(quoted)-1] + ")"
}

// String is the line about it.
func (a AccessDiff) String() string {
	line := a.Change.mark() + " " + strings.Join(a.Actions, ", ")
	if len(a.Models) > 0 {
		line += " on " + strings.Join(a.Models, ", ")
	}
	switch {
	case a.Change == Altered:
		line += ": " + a.Before + " → " + a.After
	case a.Change == Same:
		line += ": " + a.After + ", as before"
	case a.Change == Gained && a.After != "always":
		line += ": " + a.After
	case a.Change == Lost && a.Before != "always":
		line += ": was " + a.Before
	}
	return line
}

// limits tells which limits differ, or that the role is there or gone.
func (r RoleDiff) limits() string {
	if r.Change != Altered {
		return ""
	}
	var parts []string
	part := func(name string, before, after any) {
		if before != after {
			parts = append(parts, fmt.Sprintf("%s %v → %v", name, before, after))
		}
	}
	part("requests_per_second", r.Before.RequestsPerSecond, r.After.RequestsPerSecond)
	part("request_burst", r.Before.RequestBurst, r.After.RequestBurst)
	part("rows_per_second", r.Before.RowsPerSecond, r.After.RowsPerSecond)
	part("row_burst", r.Before.RowBurst, r.After.RowBurst)
	part("max_rows_per_request", r.Before.MaxRowsPerRequest, r.After.MaxRowsPerRequest)
	part("max_streams", r.Before.MaxStreams, r.After.MaxStreams)
	part("budget a day", r.Before.Day.orNone(), r.After.Day.orNone())
	part("budget a month", r.Before.Month.orNone(), r.After.Month.orNone())
	part("counts alone while the store is away", r.Before.Alone, r.After.Alone)
	return ": " + strings.Join(parts, ", ")
}
