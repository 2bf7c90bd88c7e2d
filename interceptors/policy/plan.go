package policy

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sallyport/sallyport/identity"
)

// plan is what the roles of one scope come to for one class or action: those
// that allow it whatever the call, and those for which the user or a condition
// decides. It does not change, its combined grants aside.
type plan struct {
	always *Grant  // of the roles that allow it always; nil if there are none
	roles  []*role // of always; nil if maybe is
	maybe  []candidate

	open   []int32 // the candidates that need no user
	users  []requirementOf
	traits map[trait][]int32 // → users; nil if there are few

	// kept is whether the scope has it: of one that it has not, nothing else is kept.
	kept bool

	// combined are the grants of sets of candidates, together with roles. The map
	// is replaced, not changed, with Index.mu held.
	combined atomic.Pointer[map[string]*Grant]
}

// candidate is a role that allows something if the user is one of users, or
// users is empty, and a condition of whens is true, or whens is empty.
type candidate struct {
	role  *role
	users []*requirement
	whens []when
}

// requirementOf is what a candidate needs of the user.
type requirementOf struct {
	need      *requirement
	candidate int32
}

const (
	// fewRequirements are tried one by one; more are looked up by the user's claims.
	fewRequirements = 8
	// maxCombined bounds the sets of candidates whose grant a plan keeps: callers
	// have a say in which sets there are.
	maxCombined = 256
)

// plan is the plan of s for key, a *class or an Action, of which match tells
// which roles allow it and when. What it finds it keeps in the scope: only the
// first decision of a pair pays for the number of the caller's roles.
func (ix *Index) plan(s *scope, key any, match func(*role) (bool, []when)) *plan {
	if p, ok := s.plans.Load(key); ok {
		return p.(*plan)
	}
	p := newPlan(s, match)
	if len(p.roles) > 0 {
		p.always = newGrant(p.roles)
	}
	if len(p.maybe) == 0 {
		p.roles = nil // only combine needs them
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	size := 1 + len(p.roles) + len(p.maybe) + len(p.users)
	fits := ix.kept+size <= ix.maxKept
	if p.always != nil && fits {
		p.always = ix.intern(p.always)
	}
	if !fits {
		return p
	}
	p.kept = true
	if same, loaded := s.plans.LoadOrStore(key, p); loaded {
		return same.(*plan)
	}
	ix.kept += size
	return p
}

// intern is the one Grant of these roles. ix.mu is held.
func (ix *Index) intern(g *Grant) *Grant {
	if same, ok := ix.interned[g.Key]; ok {
		return same
	}
	ix.interned[g.Key] = g
	return g
}

func newPlan(s *scope, match func(*role) (bool, []when)) *plan {
	p := &plan{}
	position := make(map[*role]int) // in maybe, or -1 for one of roles
	for at := s; at != nil; at = at.parent {
		for _, r := range at.roles {
			if _, again := position[r]; again {
				continue
			}
			ok, whens := match(r)
			switch {
			case !ok:
			case len(whens) == 0:
				position[r] = -1
				p.roles = append(p.roles, r)
			default:
				position[r] = len(p.maybe)
				p.maybe = append(p.maybe, candidate{role: r, whens: whens})
			}
		}
	}
	alone := len(p.maybe)
	for at := s; at != nil; at = at.parent {
		for _, b := range at.onBehalf {
			i, again := position[b.role]
			if again && i < alone {
				continue // the workload alone has it
			}
			if !again {
				ok, whens := match(b.role)
				if !ok {
					continue
				}
				i = len(p.maybe)
				position[b.role] = i
				p.maybe = append(p.maybe, candidate{role: b.role, whens: whens})
			}
			p.maybe[i].users = append(p.maybe[i].users, b.user)
		}
	}
	p.link()
	return p
}

// link makes the candidates quick to find.
func (p *plan) link() {
	slices.SortFunc(p.maybe, func(a, b candidate) int { return strings.Compare(a.role.name, b.role.name) })
	for i, c := range p.maybe {
		if len(c.users) == 0 {
			p.open = append(p.open, int32(i))
		}
		for _, need := range c.users {
			p.users = append(p.users, requirementOf{need, int32(i)})
		}
	}
	if len(p.users) <= fewRequirements {
		return
	}
	p.traits = make(map[trait][]int32)
	for i, u := range p.users {
		for _, t := range u.need.traits() {
			p.traits[t] = append(p.traits[t], int32(i))
		}
	}
}

// candidates appends to those for which the user decides favourably those that
// need none, each once, in order.
func (p *plan) candidates(u *identity.User, to []int32) []int32 {
	to = append(to, p.open...)
	switch {
	case u == nil:
	case p.traits == nil:
		for _, n := range p.users {
			if n.need.matches(u) {
				to = append(to, n.candidate)
			}
		}
	default:
		userTraits(u, func(t trait) {
			for _, i := range p.traits[t] {
				if n := p.users[i]; n.need.matches(u) {
					to = append(to, n.candidate)
				}
			}
		})
	}
	slices.Sort(to)
	return slices.Compact(to)
}

// decide decides where the user or conditions do.
func (p *plan) decide(ix *Index, r Request) Decision {
	var few [8]int32
	candidates := p.candidates(r.User, few[:0])
	var story *story
	allowed := candidates[:0]
	for _, i := range candidates {
		c := &p.maybe[i]
		if len(c.whens) > 0 {
			if story == nil {
				story = newStory(r)
			}
			if !story.holds(c) {
				continue
			}
		}
		allowed = append(allowed, i)
	}
	switch {
	case len(allowed) > 0:
		return Decision{Allowed: true, Outcome: Allowed, Grant: ix.combine(p, allowed)}
	case p.always != nil:
		return Decision{Allowed: true, Outcome: Allowed, Grant: p.always}
	case story == nil:
		return notThisUser
	default:
		return story.refusal()
	}
}

var notThisUser = Decision{
	Outcome: NotGranted,
	Detail:  "no role of the caller allows the action on the model; a binding gives one that does for another user",
}

// combine is the grant of the roles of p with some of its candidates, in order.
func (ix *Index) combine(p *plan, candidates []int32) *Grant {
	var few [64]byte
	key := few[:0]
	for _, i := range candidates {
		key = binary.BigEndian.AppendUint32(key, uint32(i)) //nolint:gosec // not negative
	}
	if m := p.combined.Load(); m != nil {
		if g, ok := (*m)[string(key)]; ok {
			return g
		}
	}
	roles := slices.Clone(p.roles)
	for _, i := range candidates {
		roles = append(roles, p.maybe[i].role)
	}
	g := newGrant(roles)
	if !p.kept {
		return g
	}

	ix.mu.Lock()
	defer ix.mu.Unlock()
	var grants map[string]*Grant
	if m := p.combined.Load(); m != nil {
		grants = *m
	}
	if same, ok := grants[string(key)]; ok {
		return same
	}
	if len(grants) >= maxCombined || ix.kept >= ix.maxKept {
		return g
	}
	g = ix.intern(g)
	more := make(map[string]*Grant, len(grants)+1)
	maps.Copy(more, grants)
	more[string(key)] = g
	p.combined.Store(&more)
	ix.kept++
	return g
}

// story is what became of the conditions of one decision.
type story struct {
	conditions
	failed, untrue []told
	err            error // of the first that failed
}

// told is a rule whose condition did not hold.
type told struct {
	role *role
	rule int
}

func (t told) String() string { return fmt.Sprintf("role %s rules[%d]", t.role.name, t.rule) }

// maxTold is how many rules a refusal names whose condition is false.
const maxTold = 4

func newStory(r Request) *story { return &story{conditions: conditions{facts: facts{r: r}}} }

// holds tells whether a condition of the candidate is true.
func (s *story) holds(c *candidate) bool {
	for _, w := range c.whens {
		switch value, err := s.eval(w.condition); {
		case err != nil:
			if len(s.failed) == 0 {
				s.err = err
			}
			s.failed = append(s.failed, told{c.role, w.rule})
		case value:
			return true
		default:
			s.untrue = append(s.untrue, told{c.role, w.rule})
		}
	}
	return false
}

// refusal is the decision if nothing allows the call.
func (s *story) refusal() Decision {
	if len(s.failed) > 0 {
		more := ""
		if n := len(s.failed) - 1; n > 0 {
			more = fmt.Sprintf("; %d more could not be evaluated", n)
		}
		return Decision{
			Outcome:    ConditionFailed,
			Detail:     fmt.Sprintf("%v.when: %s%s", s.failed[0], clip(s.err.Error(), maxDetailBytes/2), more),
			Impersonal: fmt.Sprintf("%v.when could not be evaluated%s", s.failed[0], more),
		}
	}
	var names []string
	for _, t := range s.untrue[:min(len(s.untrue), maxTold)] {
		names = append(names, t.String())
	}
	detail := "when is false: " + strings.Join(names, ", ")
	if more := len(s.untrue) - len(names); more > 0 {
		detail += fmt.Sprintf(", and %d more", more)
	}
	return Decision{Outcome: NotGranted, Detail: detail}
}
