package policy

import (
	"fmt"
	"strings"
	"unicode"
)

// printable is s with spaces for line breaks, control characters and what is not
// UTF-8.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// String is the explanation for a person to read, without a final line break.
func (e Explanation) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	what := e.Action
	if e.Model != "" {
		what += " on " + e.Model
	}
	from := ""
	if e.Address != "" {
		from = " from " + e.Address
	}
	if e.User != nil {
		from += fmt.Sprintf(" on behalf of %q of %q", e.User.Subject, e.User.Issuer)
	}
	line("%s: %s for %s%s", e.Outcome, what, e.Caller, from)
	if e.Detail != "" {
		line("  %s", e.Detail)
	}

	if len(e.Blocks) == 0 {
		line("blocked: no entry matches")
	}
	for _, m := range e.Blocks {
		line("blocked[%d]: %s matches (%s)", m.Index, m.Pattern, m.Reason)
	}
	if e.Address == "" {
		line("blocked addresses were left aside: no address given")
	}

	if len(e.Bindings) == 0 {
		line("bindings: none matches the caller")
	}
	for _, m := range e.Bindings {
		switch {
		case m.User == "":
			line("bindings[%d]: %s gives role %s", m.Index, m.Pattern, m.Role)
		case m.Unmet == "":
			line("bindings[%d]: %s gives role %s to a user of %s", m.Index, m.Pattern, m.Role, m.User)
		default:
			line("bindings[%d]: %s does not give role %s: %s; it asks for a user of %s", m.Index, m.Pattern, m.Role, m.Unmet, m.User)
		}
	}
	for _, r := range e.Rules {
		mark := "no "
		if r.Matched {
			mark = "yes"
		}
		line("  %s role %s rules[%d] %s", mark, r.Role, r.Index, r.Why)
		switch {
		case r.Value != "":
			line("      when %s is %s", printable(r.When), printable(r.Value))
		case r.When != "":
			line("      when %s", printable(r.When))
		}
	}

	if g := e.Grant; g != nil {
		line("limits of %s:", strings.Join(g.Roles, " and "))
		line("  requests  %g a second, %d at once", g.Limits.RequestsPerSecond, g.Limits.RequestBurst)
		line("  rows      %g a second, %d at once, %d a request", g.Limits.RowsPerSecond, g.Limits.RowBurst, g.Limits.MaxRowsPerRequest)
		line("  streams   %d open", g.Limits.MaxStreams)
		for _, budget := range g.Limits.Budgets() {
			line("  budget    %s", budget)
		}
		if g.Limits.Alone {
			line("  while the store of quotas is away each replica counts for itself, and budgets are not enforced")
		}
	}
	for _, s := range e.Suggestions {
		line("note: %s", s)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
