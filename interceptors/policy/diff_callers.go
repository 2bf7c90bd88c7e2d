package policy

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// comparison finds what two policies, side 0 and side 1, say about regions.
//
// A cell is an action on a region of models, INTROSPECT the last one. What a
// caller may do there is the union of what the bindings of its region and of all
// wider ones give.
type comparison struct {
	accesses *accesses
	models   *modelRegions
	regions  []*callerRegion

	bindings map[boundRole]int32
	bound    []boundRole // by their number
	gives    [][]given   // by the number of the binding; nil until it is needed
	rules    map[string][]*configv1.Rule

	chains  map[string]int32
	nothing []access // no access to any cell

	groups map[[2]standing]callerGroup // what was worked out before
}

// boundRole is a role as it is bound.
type boundRole struct {
	name, user string
	rules      string // key of comparison.rules: equal rules have equal keys
}

// given is the access that a binding gives to a cell.
type given struct {
	cell   int
	access access
}

// standing is all that makes a difference between regions.
type standing struct {
	chains  [2]int32
	blocked [2]bool
}

// callerGroup is what is to be said about a region, less why it is blocked.
type callerGroup struct {
	CallerDiff
	differs bool // anything at all, be it said here or in a wider group
}

// modelActions are the actions that are about models, in the order of the cells.
var modelActions = [...]Action{Predict, PredictStream, Describe}

func newComparison(policies ...*configv1.Policy) *comparison {
	c := &comparison{
		accesses: newAccesses(),
		models:   newModelRegions(policies...),
		bindings: make(map[boundRole]int32),
		rules:    make(map[string][]*configv1.Rule),
		chains:   make(map[string]int32),
		groups:   make(map[[2]standing]callerGroup),
	}
	c.nothing = make([]access, len(modelActions)*len(c.models.patterns)+1)
	regions := callerRegions{index: make(map[string]*callerRegion)}
	for side, p := range policies {
		rules := make(map[string]string) // key by role
		for _, role := range p.GetRoles() {
			rules[role.GetName()] = c.keep(role.GetRules())
		}
		for _, b := range p.GetBindings() {
			number := c.number(boundRole{name: b.GetRole(), user: requirementText(b.GetUser()), rules: rules[b.GetRole()]})
			for _, caller := range b.GetCallers() {
				s := &regions.at(caller).sides[side]
				s.own = append(s.own, number)
			}
		}
		for i, b := range p.GetBlocked() {
			for _, caller := range b.GetCallers() {
				if s := &regions.at(caller).sides[side]; s.blocked == "" {
					s.blocked = blockedBy(i, b)
				}
			}
		}
	}
	regions.link()
	c.regions = regions.all
	for _, r := range c.regions {
		for side := range r.sides {
			c.inherit(r, side)
		}
	}
	return c
}

func blockedBy(i int, b *configv1.Block) string {
	return fmt.Sprintf("blocked[%d]: %s", i, b.GetReason())
}

// keep returns a key that equal rules share.
func (c *comparison) keep(rules []*configv1.Rule) string {
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(&configv1.Role{Rules: rules})
	if err != nil {
		panic(fmt.Sprintf("policy: compiled with rules that do not marshal: %v", err))
	}
	c.rules[string(key)] = rules
	return string(key)
}

func (c *comparison) number(b boundRole) int32 {
	number, ok := c.bindings[b]
	if !ok {
		number = int32(len(c.bound)) //nolint:gosec // a policy has fewer bindings
		c.bindings[b] = number
		c.bound = append(c.bound, b)
		c.gives = append(c.gives, nil)
	}
	return number
}

// inherit completes one side of r; the wider regions are complete.
func (c *comparison) inherit(r *callerRegion, side int) {
	s := &r.sides[side]
	if r.wider >= 0 {
		wider := &c.regions[r.wider].sides[side]
		s.chain = wider.chain
		if s.blocked == "" {
			s.blocked = wider.blocked
		}
	}
	if len(s.own) == 0 {
		return
	}
	slices.Sort(s.own)
	s.own = slices.Compact(s.own)
	key := binary.BigEndian.AppendUint32(nil, uint32(s.chain)) //nolint:gosec // not negative
	for _, number := range s.own {
		key = binary.BigEndian.AppendUint32(key, uint32(number)) //nolint:gosec // not negative
	}
	chain, ok := c.chains[string(key)]
	if !ok {
		chain = int32(len(c.chains)) + 1 //nolint:gosec // a policy has fewer bindings
		c.chains[string(key)] = chain
	}
	s.chain = chain
}

func (r *callerRegion) standing() standing {
	a, b := &r.sides[0], &r.sides[1]
	return standing{chains: [2]int32{a.chain, b.chain}, blocked: [2]bool{a.blocked != "", b.blocked != ""}}
}

// same is whether the policies cannot differ.
func (s standing) same() bool { return s.chains[0] == s.chains[1] && s.blocked[0] == s.blocked[1] }

// callers are the groups of all regions about which there is something to say.
func (c *comparison) callers() []CallerDiff {
	var diffs []CallerDiff
	differs := make([]bool, len(c.regions))
	var path []int // of regions whose cells may be kept, from the widest
	for i, r := range c.regions {
		for len(path) > 0 && lastOf(path) != r.wider {
			for side := range c.regions[lastOf(path)].sides {
				c.regions[lastOf(path)].sides[side].cells = nil
			}
			path = path[:len(path)-1]
		}
		path = append(path, i)
		var around standing
		if r.wider >= 0 {
			around = c.regions[r.wider].standing()
		}
		is := r.standing()
		if is.same() && (r.wider < 0 || !differs[r.wider]) {
			continue
		}
		key := [2]standing{around, is}
		g, ok := c.groups[key]
		if !ok {
			g = c.group(i, around)
			c.groups[key] = g
		}
		differs[i] = g.differs
		said := g.CallerDiff
		said.Callers = r.name
		if said.Blocked != nil {
			reason := r.sides[0].blocked
			if said.Blocked.Change == Gained {
				reason = r.sides[1].blocked
			}
			said.Blocked = &BlockDiff{Change: said.Blocked.Change, Reason: reason}
		}
		if said.Unchanged || said.Blocked != nil || len(said.Bound)+len(said.Access) > 0 {
			diffs = append(diffs, said)
		}
	}
	return diffs
}

// group works out what to say about a region that lies in one of the standing
// around.
func (c *comparison) group(i int, around standing) callerGroup {
	r := c.regions[i]
	is := r.standing()
	var g callerGroup
	blocked := changed(is.blocked[0], is.blocked[1])
	if blocked != changed(around.blocked[0], around.blocked[1]) {
		g.Blocked = &BlockDiff{Change: blocked}
	}
	var boundDiffers, accessDiffers bool
	g.Bound, boundDiffers = c.compareBound(r)
	g.Access, accessDiffers = c.compareAccess(i)
	g.differs = blocked != Same || boundDiffers || accessDiffers
	if !g.differs && (g.Blocked != nil || len(g.Bound)+len(g.Access) > 0) {
		g.CallerDiff = CallerDiff{Unchanged: true}
	}
	return g
}

// compareBound tells which roles the callers of r have on one side only, as far
// as a wider group does not say the same.
func (c *comparison) compareBound(r *callerRegion) (diffs []BoundDiff, differs bool) {
	type name struct{ role, user string }
	var here [2]map[name]bool
	var wider [2]map[name]bool
	for side := range here {
		here[side], wider[side] = make(map[name]bool), make(map[name]bool)
		for at := r; at != nil; at = c.around(at) {
			for _, number := range at.sides[side].own {
				b := c.bound[number]
				here[side][name{b.name, b.user}] = true
				if at != r {
					wider[side][name{b.name, b.user}] = true
				}
			}
		}
	}
	seen := make(map[name]bool)
	for _, names := range here {
		for n := range names {
			is := changed(here[0][n], here[1][n])
			differs = differs || is != Same
			if is != changed(wider[0][n], wider[1][n]) && !seen[n] {
				seen[n] = true
				diffs = append(diffs, BoundDiff{Change: is, Role: n.role, User: n.user})
			}
		}
	}
	slices.SortFunc(diffs, func(a, b BoundDiff) int {
		return strings.Compare(a.Role+" "+a.User, b.Role+" "+b.User)
	})
	return diffs, differs
}

func (c *comparison) around(r *callerRegion) *callerRegion {
	if r.wider < 0 {
		return nil
	}
	return c.regions[r.wider]
}
