package policy_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// TestDiffSaysWhatDecideDoes draws pairs of policies over a small alphabet, so
// that patterns nest and clash, reads the lines of their difference word for
// word, and compares with what the two policies decide.
func TestDiffSaysWhatDecideDoes(t *testing.T) {
	said := make(map[string]int)
	for seed := range uint64(1500) {
		draw := pairDrawer{rand.New(rand.NewPCG(seed, 1))}
		before, after := draw.pair()
		a, b := compiled(t, before), compiled(t, after)
		d := policy.Compare(a, b)
		if minimal(t, d); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		back := policy.Compare(b, a)
		for range 200 {
			r := draw.request()
			line := accessLine(d, r)
			said[line.Change.String()]++
			x, y := a.Decide(r), b.Decide(r)
			if fault := judge(line, x.Allowed, y.Allowed); fault != "" {
				t.Fatalf("seed %d: %+v: line %+v, but %s\n%v\n%v", seed, r, line, fault, before, after)
			}
			reverse := accessLine(back, r)
			if reverse.Before != line.After || reverse.After != line.Before {
				t.Fatalf("seed %d: %+v: line %+v one way, %+v the other\n%v\n%v", seed, r, line, reverse, before, after)
			}
			blocked := blockLine(d, r.Caller)
			if want := presence(x.Outcome == policy.CallerBlocked, y.Outcome == policy.CallerBlocked); blocked != want {
				t.Fatalf("seed %d: %v: blocked %v, want %v\n%v\n%v", seed, r.Caller, blocked, want, before, after)
			}
			// Whoever gains or loses every role gains or loses some access.
			r.Action = policy.None
			if a.Decide(r).Allowed != b.Decide(r).Allowed && len(d.Callers) == 0 {
				t.Fatalf("seed %d: %v has a role on one side, and no line says so\n%v\n%v", seed, r.Caller, before, after)
			}
		}
		if same := policy.Compare(a, a); !same.Empty() {
			t.Fatalf("seed %d: a policy differs from itself: %+v\n%v", seed, same, before)
		}
		for range 50 {
			address := netip.MustParseAddr(draw.one("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.5", "10.1.0.0", "192.0.2.1", "::1", "fe80::1"))
			got := rangeLine(d, address)
			want := presence(blocksAddress(before, address), blocksAddress(after, address))
			if got != want {
				t.Fatalf("seed %d: %v: %v, want %v\n%v\n%v", seed, address, got, want, before.GetBlocked(), after.GetBlocked())
			}
		}
	}
	for _, change := range []string{"same", "gained", "lost", "altered"} {
		if said[change] < 1000 {
			t.Errorf("%d requests came out as %q: the drawing tests little", said[change], change)
		}
	}
}

// judge tells what is wrong with a line about a request that came out so.
func judge(line policy.AccessDiff, before, after bool) string {
	for _, side := range []struct {
		name, access string
		allowed      bool
	}{{"before", line.Before, before}, {"after", line.After, after}} {
		switch {
		case side.access == "none" && side.allowed, side.access == "always" && !side.allowed:
			return fmt.Sprintf("%s it is %s and Allowed %v", side.name, side.access, side.allowed)
		}
	}
	if line.Before == line.After && before != after {
		return fmt.Sprintf("it was Allowed %v and is %v", before, after)
	}
	return ""
}

// accessLine is the line that holds for the request, as the documentation of
// Diff reads; Same and nothing else if there is none.
func accessLine(d policy.Diff, r policy.Request) policy.AccessDiff {
	for _, c := range narrowest(d, r.Caller) {
		if c.Unchanged {
			break
		}
		var found *policy.AccessDiff
		width := -1
		for _, l := range c.Access {
			if !slices.Contains(l.Actions, r.Action.String()) {
				continue
			}
			if r.Action == policy.Introspect {
				found = &l
			}
			for _, model := range l.Models {
				prefix, isPrefix := strings.CutSuffix(model, "*")
				if model == r.Model {
					found, width = &l, 1<<20
				} else if isPrefix && strings.HasPrefix(r.Model, prefix) && len(prefix) > width {
					found, width = &l, len(prefix)
				}
			}
		}
		if found != nil {
			if found.Change == policy.Same {
				return policy.AccessDiff{} // what it is before and after is not said on every side
			}
			return *found
		}
	}
	return policy.AccessDiff{}
}

// narrowest are the groups that match the caller, the narrowest first.
func narrowest(d policy.Diff, id spiffeid.ID) []policy.CallerDiff {
	var groups []policy.CallerDiff
	for _, c := range d.Callers {
		if covers(c.Callers, id.String()) {
			groups = append(groups, c)
		}
	}
	width := func(c policy.CallerDiff) int {
		if !strings.HasSuffix(c.Callers, "/*") {
			return -1 << 20
		}
		return -len(c.Callers)
	}
	slices.SortFunc(groups, func(a, b policy.CallerDiff) int { return cmp.Compare(width(a), width(b)) })
	return groups
}

func blockLine(d policy.Diff, id spiffeid.ID) policy.Change {
	for _, c := range narrowest(d, id) {
		if c.Unchanged {
			return policy.Same
		}
		if c.Blocked != nil {
			return c.Blocked.Change
		}
	}
	return policy.Same
}

func rangeLine(d policy.Diff, addr netip.Addr) policy.Change {
	is, bits := policy.Same, -1
	for _, a := range d.Addresses {
		if p := netip.MustParsePrefix(a.Range); p.Contains(addr) && p.Bits() > bits {
			is, bits = a.Change, p.Bits()
		}
	}
	return is
}

func presence(before, after bool) policy.Change {
	switch {
	case !before && after:
		return policy.Gained
	case before && !after:
		return policy.Lost
	}
	return policy.Same
}

func blocksAddress(p *configv1.Policy, addr netip.Addr) bool {
	return slices.ContainsFunc(p.GetBlocked(), func(b *configv1.Block) bool {
		return slices.ContainsFunc(b.GetAddresses(), func(s string) bool { return netip.MustParsePrefix(s).Contains(addr) })
	})
}

// minimal finds models whose line says what that of the next wider one says.
func minimal(t *testing.T, d policy.Diff) {
	t.Helper()
	for _, c := range d.Callers {
		for _, l := range c.Access {
			for _, action := range l.Actions {
				for _, model := range l.Models {
					at := widerLine(c, action, model)
					if at < 0 {
						continue
					}
					if w := c.Access[at]; w.Change == l.Change && w.Before == l.Before && w.After == l.After {
						t.Errorf("%s: %s on %s follows from %+v", c.Callers, action, model, w)
					}
				}
			}
		}
	}
}

// widerLine is the line of the narrowest model that is wider; -1 if there is none.
func widerLine(c policy.CallerDiff, action, model string) int {
	base, isPrefix := strings.CutSuffix(model, "*")
	line, width := -1, -1
	for i, l := range c.Access {
		for _, other := range l.Models {
			wide, isWide := strings.CutSuffix(other, "*")
			if slices.Contains(l.Actions, action) && isWide && strings.HasPrefix(base, wide) && (!isPrefix || len(wide) < len(base)) && len(wide) > width {
				line, width = i, len(wide)
			}
		}
	}
	return line
}

func compiled(t *testing.T, p *configv1.Policy) *policy.Index {
	t.Helper()
	ix, err := policy.Compile(p)
	if err != nil {
		t.Fatalf("%v\n%v", err, p)
	}
	return ix
}

// pairDrawer draws two policies of which the second is often the first with a
// few changes.
type pairDrawer struct{ *rand.Rand }

func (d pairDrawer) one(from ...string) string { return from[d.IntN(len(from))] }

func (d pairDrawer) pair() (before, after *configv1.Policy) {
	before, after = d.policy(), d.policy()
	for i := range min(len(before.GetRoles()), len(after.GetRoles())) {
		if d.IntN(3) > 0 {
			after.Roles[i] = before.GetRoles()[i]
		}
	}
	if d.IntN(2) == 0 {
		for _, b := range before.GetBindings() {
			known := slices.ContainsFunc(after.GetRoles(), func(r *configv1.Role) bool { return r.GetName() == b.GetRole() })
			if d.IntN(4) > 0 && known {
				after.Bindings = append(after.Bindings, b)
			}
		}
		after.Bindings = once(after.GetBindings())
	}
	return before, after
}

// once leaves out callers that have the role already.
func once(bindings []*configv1.Binding) (kept []*configv1.Binding) {
	seen := make(map[string]bool)
	for _, b := range bindings {
		next := &configv1.Binding{Role: b.GetRole(), User: b.GetUser()}
		for _, c := range b.GetCallers() {
			if key := b.GetRole() + " " + c; !seen[key] {
				seen[key] = true
				next.Callers = append(next.Callers, c)
			}
		}
		if len(next.GetCallers()) > 0 {
			kept = append(kept, next)
		}
	}
	return kept
}

func (d pairDrawer) caller() string {
	id := "spiffe://" + d.one("td", "td", "td-x", "other")
	for range d.IntN(4) {
		id += "/" + d.one("a", "b", "a-b", "ab")
	}
	return id
}

func (d pairDrawer) model() string { return d.one("m", "mm", "mmm", "m-n", "n", "f-1", "f-", "f-1x") }

func (d pairDrawer) policy() *configv1.Policy {
	p := &configv1.Policy{}
	for i := range 1 + d.IntN(4) {
		r := &configv1.Role{Name: fmt.Sprintf("r%d", i), Limits: &configv1.Limits{RequestsPerSecond: float64(1 + d.IntN(2)), RowsPerSecond: 1}}
		for range 1 + d.IntN(3) {
			rule := &configv1.Rule{}
			all := []configv1.Action{configv1.Action_PREDICT, configv1.Action_PREDICT_STREAM, configv1.Action_DESCRIBE, configv1.Action_INTROSPECT}
			d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			rule.Actions = all[:1+d.IntN(3)]
			for range 1 + d.IntN(3) {
				rule.Models = append(rule.Models, d.one(d.model(), d.model()+"*", "*"))
			}
			if d.IntN(3) == 0 {
				rule.When = d.one("rows <= 10", "rows > 3", "rows > 10")
			}
			r.Rules = append(r.Rules, rule)
		}
		p.Roles = append(p.Roles, r)
	}
	for range d.IntN(6) {
		b := &configv1.Binding{Role: fmt.Sprintf("r%d", d.IntN(len(p.GetRoles())))}
		for range 1 + d.IntN(3) {
			b.Callers = append(b.Callers, d.caller()+d.one("", "/*"))
		}
		if d.IntN(4) == 0 {
			b.User = &configv1.UserRequirement{Issuer: d.one("https://one", "https://two"), Groups: []string{d.one("x", "y")}}
		}
		p.Bindings = append(p.Bindings, b)
	}
	p.Bindings = once(p.GetBindings())
	for range d.IntN(3) {
		b := &configv1.Block{Reason: "x"}
		if d.IntN(2) == 0 {
			b.Callers = []string{d.caller() + d.one("", "/*")}
		}
		for range 1 + d.IntN(3) {
			b.Addresses = append(b.Addresses, d.one("10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31", "10.0.0.0/29", "10.0.0.4/30", "10.0.0.0/8", "10.0.0.1/32", "10.0.0.0/32", "fe80::/10", "::/0"))
		}
		p.Blocked = append(p.Blocked, b)
	}
	return p
}

// request comes from an address that no drawn range has.
func (d pairDrawer) request() policy.Request {
	r := policy.Request{
		Caller: spiffeid.RequireFromString(d.caller()), Address: netip.MustParseAddr("192.0.2.1"),
		Action: policy.Action(1 + d.IntN(4)), Model: d.model(), Rows: int64(d.IntN(15)),
	}
	if d.IntN(2) == 0 {
		r.User = &identity.User{Issuer: d.one("https://one", "https://two"), Subject: "s", Groups: []string{d.one("x", "y")}}
	}
	return r
}
