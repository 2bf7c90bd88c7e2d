package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// FuzzDecide draws policies and requests over a small alphabet, so that
// patterns nest and clash, and compares with the policy read word for word.
func FuzzDecide(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		draw := drawer{rand.New(rand.NewPCG(seed, 0))}
		p := draw.policy()
		ix, err := policy.Compile(p)
		if err != nil {
			t.Fatalf("%v\n%v", err, p)
		}
		for range 100 {
			r := draw.request()
			d := ix.Decide(r)
			outcome, roles := naive(p, r)
			if d.Outcome != outcome || d.Allowed != (outcome == policy.Allowed) {
				t.Fatalf("%+v: %v, read word for word %v\n%v", r, d.Outcome, outcome, p)
			}
			if d.Allowed && !slices.Equal(d.Grant.Roles, roles) {
				t.Fatalf("%+v: granted by %v, read word for word by %v\n%v", r, d.Grant.Roles, roles, p)
			}
			if got, want := ix.MayEver(r).Allowed, naiveMayEver(p, r); got != want {
				t.Fatalf("%+v: MayEver %v, read word for word %v\n%v", r, got, want, p)
			}
			e := ix.Explain(r)
			if e.Outcome != outcome || outcome == policy.Allowed != slices.ContainsFunc(e.Rules, func(c policy.ConsideredRule) bool { return c.Matched }) && len(e.Blocks) == 0 {
				t.Fatalf("%+v: %v, explained as\n%v", r, outcome, e)
			}
		}
	})
}

type drawer struct{ *rand.Rand }

func (d drawer) one(from ...string) string { return from[d.IntN(len(from))] }

func (d drawer) id(maxSegments int) string {
	id := "spiffe://" + d.one("td", "td.test", "other")
	for range d.IntN(maxSegments + 1) {
		id += "/" + d.one("a", "b", "ab")
	}
	return id
}

func (d drawer) pattern() string { return d.id(3) + d.one("", "/*") }

func (d drawer) model() string {
	return d.one("m", "mm", "mmm", "n", "fraud-1", "fraud-", "fraud-1x", "Fraud-1", "m-n")
}

func (d drawer) actions() []configv1.Action {
	all := []configv1.Action{configv1.Action_PREDICT, configv1.Action_PREDICT_STREAM, configv1.Action_DESCRIBE, configv1.Action_INTROSPECT}
	d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:1+d.IntN(2)]
}

func (d drawer) policy() *configv1.Policy {
	p := &configv1.Policy{}
	for i := range 1 + d.IntN(4) {
		r := &configv1.Role{Name: fmt.Sprintf("r%d", i), Limits: &configv1.Limits{RequestsPerSecond: 1, RowsPerSecond: 1}}
		for range 1 + d.IntN(3) {
			rule := &configv1.Rule{Actions: d.actions()}
			for range d.IntN(3) {
				rule.Models = append(rule.Models, d.one(d.model(), d.model()+"*", "*"))
			}
			r.Rules = append(r.Rules, rule)
		}
		p.Roles = append(p.Roles, r)
	}
	bound := make(map[string]bool)
	for range d.IntN(5) {
		b := &configv1.Binding{Role: fmt.Sprintf("r%d", d.IntN(len(p.GetRoles())))}
		for range 1 + d.IntN(3) {
			caller := d.pattern()
			if key := b.GetRole() + caller; !bound[key] {
				bound[key] = true
				b.Callers = append(b.Callers, caller)
			}
		}
		p.Bindings = append(p.Bindings, b)
	}
	for range d.IntN(2) {
		b := &configv1.Block{Callers: []string{d.pattern()}, Reason: "x"}
		if d.IntN(2) == 0 {
			b.Addresses = []string{d.one("10.0.0.0/8", "10.1.0.0/16", "10.1.1.1/32", "fe80::/10", "::/0")}
		}
		p.Blocked = append(p.Blocked, b)
	}
	return p
}

func (d drawer) request() policy.Request {
	return policy.Request{
		Caller:  spiffeid.RequireFromString(d.id(4)),
		Address: netip.MustParseAddr(d.one("10.1.1.1", "10.1.2.3", "10.2.0.0", "192.0.2.1", "::ffff:10.1.1.1", "fe80::1%eth0", "2001:db8::1")),
		Action:  policy.Action(d.IntN(6)),
		Model:   d.model(),
	}
}

// naive is the policy as its documentation reads.
func naive(p *configv1.Policy, r policy.Request) (policy.Outcome, []string) {
	addr := r.Address.Unmap().WithZone("")
	for _, b := range p.GetBlocked() {
		if slices.ContainsFunc(b.GetCallers(), func(c string) bool { return covers(c, r.Caller.String()) }) {
			return policy.CallerBlocked, nil
		}
	}
	for _, b := range p.GetBlocked() {
		if slices.ContainsFunc(b.GetAddresses(), func(a string) bool { return netip.MustParsePrefix(a).Contains(addr) }) {
			return policy.AddressBlocked, nil
		}
	}
	held := naiveRoles(p, r)
	if len(held) == 0 {
		return policy.NoRole, nil
	}
	var granting []string
	for _, role := range p.GetRoles() {
		if slices.Contains(held, role.GetName()) && (r.Action == policy.None || slices.ContainsFunc(role.GetRules(), func(rule *configv1.Rule) bool {
			return slices.Contains(rule.GetActions(), configv1.Action(r.Action)) &&
				(r.Action == policy.Introspect || slices.ContainsFunc(rule.GetModels(), func(m string) bool {
					prefix, isPrefix := strings.CutSuffix(m, "*")
					return r.Model == m || isPrefix && strings.HasPrefix(r.Model, prefix)
				}))
		})) {
			granting = append(granting, role.GetName())
		}
	}
	if len(granting) == 0 {
		return policy.NotGranted, nil
	}
	slices.Sort(granting)
	return policy.Allowed, granting
}

func naiveRoles(p *configv1.Policy, r policy.Request) (held []string) {
	for _, b := range p.GetBindings() {
		if slices.ContainsFunc(b.GetCallers(), func(c string) bool { return covers(c, r.Caller.String()) }) {
			held = append(held, b.GetRole())
		}
	}
	return held
}

func naiveMayEver(p *configv1.Policy, r policy.Request) bool {
	outcome, _ := naive(p, r)
	if outcome == policy.CallerBlocked || outcome == policy.AddressBlocked {
		return false
	}
	held := naiveRoles(p, r)
	return slices.ContainsFunc(p.GetRoles(), func(role *configv1.Role) bool {
		return slices.Contains(held, role.GetName()) && (r.Action == policy.None || slices.ContainsFunc(role.GetRules(), func(rule *configv1.Rule) bool {
			return slices.Contains(rule.GetActions(), configv1.Action(r.Action)) && (r.Action == policy.Introspect || len(rule.GetModels()) > 0)
		}))
	})
}

func covers(pattern, id string) bool {
	base, under := strings.CutSuffix(pattern, "/*")
	wholeDomain := under && !strings.Contains(strings.TrimPrefix(base, "spiffe://"), "/")
	return !under && id == base || under && strings.HasPrefix(id, base+"/") || wholeDomain && id == base
}
