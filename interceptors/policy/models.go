package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// class is the models that exactly the same patterns of one action match.
// Patterns nest, so a class adds to its parent.
type class struct {
	parent *class // nil if no wider pattern matches
}

// role is a role of the policy, compiled.
type role struct {
	name    string
	limits  Limits
	actions actions
	// classes has the pattern of each rule, as the class of that pattern, with the
	// conditions under which it is allowed: none if always. Classes of different
	// actions are different.
	classes map[*class][]when
}

// when is a rule that holds under a condition.
type when struct {
	rule      int // its position in the role
	condition *condition
}

// allows tells whether a rule of the role matches models of class c, and under
// which conditions, any of them, in the order of the rules; none if always.
func (r *role) allows(c *class) (bool, []when) {
	var all []when
	for ; c != nil; c = c.parent {
		conditions, ok := r.classes[c]
		if !ok {
			continue
		}
		if len(conditions) == 0 {
			return true, nil
		}
		all = append(all, conditions...)
	}
	slices.SortStableFunc(all, func(a, b when) int { return cmp.Compare(a.rule, b.rule) })
	return len(all) > 0, slices.CompactFunc(all, func(a, b when) bool { return a.condition == b.condition })
}

// models finds the class of a model for one action, in time that depends on
// how many lengths the prefixes have, not on how many there are.
type models struct {
	exact    map[string]*class
	prefixes map[string]*class
	lengths  []int // of prefixes, longest first
}

// class is the class of the model, nil if no pattern matches it.
func (m *models) class(model string) *class {
	if c := m.exact[model]; c != nil {
		return c
	}
	return m.prefix(model, len(model))
}

// prefix is the class of the longest prefix of the model of at most n bytes.
func (m *models) prefix(model string, n int) *class {
	for _, length := range m.lengths {
		if length <= n {
			if c := m.prefixes[model[:length]]; c != nil {
				return c
			}
		}
	}
	return nil
}

// add returns the class that belongs to the pattern alone.
func (m *models) add(pattern string) (*class, error) {
	name, isPrefix := strings.CutSuffix(pattern, "*")
	if strings.Contains(name, "*") {
		return nil, fmt.Errorf("model %q: * may only be the last character", pattern)
	}
	if name == "" && !isPrefix {
		return nil, fmt.Errorf("model %q: a name must not be empty", pattern)
	}
	to := &m.exact
	if isPrefix {
		to = &m.prefixes
	}
	c := (*to)[name]
	if c == nil {
		if *to == nil {
			*to = make(map[string]*class)
		}
		c = &class{}
		(*to)[name] = c
	}
	return c, nil
}

// link makes every class point to the next wider one.
func (m *models) link() {
	for prefix := range m.prefixes {
		m.lengths = append(m.lengths, len(prefix))
	}
	slices.Sort(m.lengths)
	m.lengths = slices.Compact(m.lengths)
	slices.Reverse(m.lengths)
	for prefix, c := range m.prefixes {
		c.parent = m.prefix(prefix, len(prefix)-1)
	}
	for name, c := range m.exact {
		c.parent = m.prefix(name, len(name))
	}
}

// modelMatches is for explanations and states plainly what the maps find quickly.
func modelMatches(pattern, model string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(model, prefix)
	}
	return pattern == model
}
