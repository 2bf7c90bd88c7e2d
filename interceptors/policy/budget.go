package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Budgeted names the roles that have budgets, sorted.
func (ix *Index) Budgeted() []string {
	var names []string
	for name, r := range ix.roles {
		if r.limits.Day != (Budget{}) || r.limits.Month != (Budget{}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// RoleLimits are the limits of a role; the zero Limits if there is no such role.
func (ix *Index) RoleLimits(name string) Limits {
	if r := ix.roles[name]; r != nil {
		return r.limits
	}
	return Limits{}
}

// String is the budget for people: "1000 rows, 30m0s of model time"; empty for
// none.
func (b Budget) String() string {
	var bounds []string
	if b.Rows > 0 {
		bounds = append(bounds, fmt.Sprintf("%d rows", b.Rows))
	}
	if b.Bytes > 0 {
		bounds = append(bounds, fmt.Sprintf("%d bytes", b.Bytes))
	}
	if b.ModelTime > 0 {
		bounds = append(bounds, fmt.Sprintf("%v of model time", b.ModelTime))
	}
	return strings.Join(bounds, ", ")
}

// orNone is String, and "none" for none.
func (b Budget) orNone() string { return cmp.Or(b.String(), "none") }

// Budgets are the budgets for people, by period; empty if there is none.
func (l Limits) Budgets() []string {
	var lines []string
	for _, p := range []struct {
		name   string
		budget Budget
	}{{"a day", l.Day}, {"a month", l.Month}} {
		if text := p.budget.String(); text != "" {
			lines = append(lines, text+" "+p.name)
		}
	}
	return lines
}
