package policy

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// access is who may do something, as a number: equal numbers are equal access.
type access int32

const (
	noAccess access = iota
	fullAccess
)

// alternative is one way to access: for which users and when. The zero value is
// for all and always.
type alternative struct{ user, when string }

func (a alternative) String() string {
	switch {
	case a == alternative{}:
		return "always"
	case a.when == "":
		return "for users of " + a.user
	case a.user == "":
		return fmt.Sprintf("when %q", a.when)
	}
	return fmt.Sprintf("for users of %s when %q", a.user, a.when)
}

// Terms is for which users and when something is allowed, as a Diff says it: "always",
// `for users of issuer "…"`, `when "…"` or both of these. The requirement is of a
// policy that compiles; nil asks for no user.
func Terms(u *configv1.UserRequirement, when string) string {
	return alternative{user: requirementText(u), when: when}.String()
}

// accesses gives equal sets of alternatives the same number.
type accesses struct {
	alternatives map[alternative]int32
	known        []alternative     // by their number
	numbers      map[string]access // by the numbers of their alternatives
	sets         [][]int32         // sorted, by their number
	unions       map[[2]access]access
	texts        map[access]string
}

func newAccesses() *accesses {
	return &accesses{
		alternatives: map[alternative]int32{{}: 0},
		known:        []alternative{{}},
		numbers:      make(map[string]access),
		sets:         [][]int32{noAccess: nil, fullAccess: {0}},
		unions:       make(map[[2]access]access),
		texts:        map[access]string{noAccess: "none"},
	}
}

// one is the access of one alternative.
func (s *accesses) one(a alternative) access {
	number, ok := s.alternatives[a]
	if !ok {
		number = int32(len(s.known)) //nolint:gosec // a policy has fewer rules
		s.alternatives[a] = number
		s.known = append(s.known, a)
	}
	if number == 0 {
		return fullAccess
	}
	return s.set([]int32{number})
}

// union is the access of whoever has a or b.
func (s *accesses) union(a, b access) access {
	switch {
	case a == b || b == noAccess:
		return a
	case a == noAccess:
		return b
	case a == fullAccess || b == fullAccess:
		return fullAccess
	}
	key := [2]access{min(a, b), max(a, b)}
	u, ok := s.unions[key]
	if !ok {
		u = s.set(s.needed(slices.Concat(s.sets[a], s.sets[b])))
		s.unions[key] = u
	}
	return u
}

// needed leaves out what another alternative implies: the same users without a
// condition, or the same condition for all.
func (s *accesses) needed(set []int32) []int32 {
	slices.Sort(set)
	set = slices.Compact(set)
	has := func(a alternative) bool {
		number, ok := s.alternatives[a]
		if !ok {
			return false
		}
		_, ok = slices.BinarySearch(set, number)
		return ok
	}
	var needed []int32
	for _, number := range set {
		a := s.known[number]
		if a.user != "" && a.when != "" && (has(alternative{user: a.user}) || has(alternative{when: a.when})) {
			continue
		}
		needed = append(needed, number)
	}
	return needed
}

func (s *accesses) set(sorted []int32) access {
	key := make([]byte, 0, 4*len(sorted))
	for _, number := range sorted {
		key = binary.BigEndian.AppendUint32(key, uint32(number)) //nolint:gosec // not negative
	}
	a, ok := s.numbers[string(key)]
	if !ok {
		a = access(len(s.sets)) //nolint:gosec // as many as fit into memory
		s.numbers[string(key)] = a
		s.sets = append(s.sets, sorted)
	}
	return a
}

// text is the access for people, and the same for the same access whatever the
// policy it is from.
func (s *accesses) text(a access) string {
	text, ok := s.texts[a]
	if !ok {
		var alternatives []string
		for _, number := range s.sets[a] {
			alternatives = append(alternatives, s.known[number].String())
		}
		slices.Sort(alternatives)
		text = strings.Join(alternatives, ", or ")
		s.texts[a] = text
	}
	return text
}

// requirementText is a requirement in a form that does not depend on the order
// in which it is written; empty if there is none.
func requirementText(u *configv1.UserRequirement) string {
	q, err := newRequirement(u)
	switch {
	case err != nil:
		panic(fmt.Sprintf("policy: compiled with a bad requirement: %v", err))
	case q == nil:
		return ""
	}
	return q.String()
}
