package policy

import (
	"slices"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// pair is the access to a cell before and after.
type pair [2]access

// delta is the pair if it is a difference, and else the one delta that says that
// there is none.
func (p pair) delta() pair {
	if p[0] == p[1] {
		return pair{}
	}
	return p
}

// actionSet is a set of indices of modelActions, a bit each.
type actionSet uint8

// compareAccess tells what changes in the cells of region i, as far as it does
// not follow from a wider region of callers, or of models for the same callers.
func (c *comparison) compareAccess(i int) (diffs []AccessDiff, differs bool) {
	here, around := c.pairs(i), c.pairs(c.regions[i].wider)
	count := len(c.models.patterns)
	said := make([][len(modelActions)]int32, count) // by model and action: the next wider model with a line, itself included; -1 if none
	type alike struct {
		pair    pair
		actions actionSet
	}
	index := make(map[alike]int) // of the line in diffs
	for m, model := range c.models.patterns {
		var lines []alike // about this model
		for k := range modelActions {
			cell := k*count + m
			said[m][k] = -1
			if w := c.models.wider[m]; w >= 0 {
				said[m][k] = said[w][k]
			}
			is, follows := here.at(cell), around.at(cell).delta()
			if w := said[m][k]; w >= 0 {
				follows = here.at(k*count + int(w)).delta()
			}
			differs = differs || is.delta() != pair{}
			if is.delta() == follows {
				continue
			}
			said[m][k] = int32(m)
			at := slices.IndexFunc(lines, func(a alike) bool { return a.pair == is })
			if at < 0 {
				at = len(lines)
				lines = append(lines, alike{pair: is})
			}
			lines[at].actions |= 1 << k
		}
		for _, line := range lines {
			at, ok := index[line]
			if !ok {
				at = len(diffs)
				index[line] = at
				diffs = append(diffs, c.line(line.pair, line.actions.names()))
			}
			diffs[at].Models = append(diffs[at].Models, model)
		}
	}
	introspect := len(c.nothing) - 1
	is := here.at(introspect)
	differs = differs || is.delta() != pair{}
	if is.delta() != around.at(introspect).delta() {
		diffs = append(diffs, c.line(is, []string{Introspect.String()}))
	}
	return diffs, differs
}

// line is a line without its models.
func (c *comparison) line(p pair, actions []string) AccessDiff {
	return AccessDiff{Change: p.change(), Actions: actions, Before: c.accesses.text(p[0]), After: c.accesses.text(p[1])}
}

func (s actionSet) names() []string {
	var names []string
	for k, action := range modelActions {
		if s&(1<<k) != 0 {
			names = append(names, action.String())
		}
	}
	return names
}

func (p pair) change() Change {
	switch {
	case p[0] == p[1]:
		return Same
	case p[0] == noAccess:
		return Gained
	case p[1] == noAccess:
		return Lost
	}
	return Altered
}

// sidesOf are the cells of both sides.
type sidesOf [2][]access

func (s sidesOf) at(cell int) pair { return pair{s[0][cell], s[1][cell]} }

// pairs is what both sides say about the cells of region i; i may be -1 for the
// callers that no pattern matches.
func (c *comparison) pairs(i int) sidesOf {
	var sides sidesOf
	for side := range sides {
		sides[side] = c.nothing
		if i >= 0 && c.regions[i].sides[side].blocked == "" {
			sides[side] = c.cells(i, side)
		}
	}
	return sides
}

// cells is the access of the callers of region i, blocks left aside, for every
// cell. It is kept in the region, and must not be changed.
func (c *comparison) cells(i int, side int) []access {
	if i < 0 {
		return c.nothing
	}
	s := &c.regions[i].sides[side]
	if s.cells != nil {
		return s.cells
	}
	inherited := c.cells(c.regions[i].wider, side)
	if len(s.own) == 0 {
		s.cells = inherited
		return inherited
	}
	cells := slices.Clone(inherited)
	for _, number := range s.own {
		for _, g := range c.given(number) {
			cells[g.cell] = c.accesses.union(cells[g.cell], g.access)
		}
	}
	for k := range modelActions {
		base := k * len(c.models.patterns)
		for m, wider := range c.models.wider {
			if wider >= 0 {
				cells[base+m] = c.accesses.union(cells[base+m], cells[base+wider])
			}
		}
	}
	s.cells = cells
	return cells
}

// given is what a binding gives to the cells that its role's rules name.
func (c *comparison) given(number int32) []given {
	if c.gives[number] != nil {
		return c.gives[number]
	}
	b := c.bound[number]
	gives := []given{}
	for _, rule := range c.rules[b.rules] {
		a := c.accesses.one(alternative{user: b.user, when: rule.GetWhen()})
		for _, action := range rule.GetActions() {
			if action == configv1.Action_INTROSPECT {
				gives = append(gives, given{len(c.nothing) - 1, a})
				continue
			}
			base := slices.Index(modelActions[:], Action(action)) * len(c.models.patterns) //nolint:gosec // a compiled policy has known actions only
			for _, model := range rule.GetModels() {
				gives = append(gives, given{base + c.models.index[model], a})
			}
		}
	}
	c.gives[number] = gives
	return gives
}
