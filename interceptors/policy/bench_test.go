package policy_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// shapes are the ways in which a policy of n rules grows.
var shapes = map[string]func(n int) (*configv1.Policy, policy.Request){
	"many callers, a role each": func(n int) (*configv1.Policy, policy.Request) {
		p := &configv1.Policy{}
		for i := range n {
			p.Roles = append(p.Roles, oneRule(i))
			p.Bindings = append(p.Bindings, &configv1.Binding{Role: roleName(i), Callers: []string{fmt.Sprintf("spiffe://td.test/ns/%d/sa/default", i)}})
		}
		return p, predict(fmt.Sprintf("spiffe://td.test/ns/%d/sa/default", n/2), fmt.Sprintf("model-%d", n/2))
	},
	"one caller, many roles": func(n int) (*configv1.Policy, policy.Request) {
		p := &configv1.Policy{}
		for i := range n {
			p.Roles = append(p.Roles, oneRule(i))
			p.Bindings = append(p.Bindings, &configv1.Binding{Role: roleName(i), Callers: []string{"spiffe://td.test/ns/*"}})
		}
		return p, predict("spiffe://td.test/ns/0/sa/default", fmt.Sprintf("model-%d", n/2))
	},
	"one role, many rules": func(n int) (*configv1.Policy, policy.Request) {
		role := &configv1.Role{Name: "r", Limits: &configv1.Limits{RequestsPerSecond: 1, RowsPerSecond: 1}}
		for i := range n {
			role.Rules = append(role.Rules, oneRule(i).GetRules()...)
		}
		return &configv1.Policy{
			Roles:    []*configv1.Role{role},
			Bindings: []*configv1.Binding{{Role: "r", Callers: []string{"spiffe://td.test/*"}}},
		}, predict("spiffe://td.test/ns/0/sa/default", fmt.Sprintf("model-%d", n/2))
	},
	"many roles on one model": func(n int) (*configv1.Policy, policy.Request) {
		p := &configv1.Policy{}
		for i := range n {
			role := oneRule(i)
			role.Rules[0].Models = []string{"*"}
			p.Roles = append(p.Roles, role)
			p.Bindings = append(p.Bindings, &configv1.Binding{Role: roleName(i), Callers: []string{fmt.Sprintf("spiffe://td.test/ns/%d/*", i)}})
		}
		return p, predict(fmt.Sprintf("spiffe://td.test/ns/%d/sa/default", n/2), "model-1")
	},
}

// elsewhere puts a condition on every rule, and a user requirement on every
// binding, that has nothing to do with the request of a shape.
func elsewhere(p *configv1.Policy, r policy.Request) *configv1.Policy {
	for i, role := range p.GetRoles() {
		for _, rule := range role.GetRules() {
			if rule.GetModels()[0] != r.Model && rule.GetModels()[0] != "*" {
				rule.When = fmt.Sprintf("rows <= %d || 'mfa' in user.amr", i%10)
			}
		}
	}
	p.Roles = append(p.Roles, &configv1.Role{Name: "other", Limits: &configv1.Limits{RequestsPerSecond: 1, RowsPerSecond: 1}, Rules: []*configv1.Rule{
		{Actions: []configv1.Action{configv1.Action_DESCRIBE}, Models: []string{"*"}, When: "user.present"},
	}})
	p.Bindings = append(p.Bindings, &configv1.Binding{
		Role: "other", Callers: []string{"spiffe://td.test/*"}, User: &configv1.UserRequirement{Issuer: "https://idp.test", Groups: []string{"g"}},
	})
	return p
}

// byGroup is a gateway of whose users each of n groups has a role of its own.
func byGroup(n int) (*configv1.Policy, policy.Request) {
	p := &configv1.Policy{}
	for i := range n {
		role := oneRule(i)
		role.Rules[0].Models = []string{"*"}
		p.Roles = append(p.Roles, role)
		p.Bindings = append(p.Bindings, &configv1.Binding{
			Role: roleName(i), Callers: []string{"spiffe://td.test/gateway"},
			User: &configv1.UserRequirement{Issuer: "https://idp.test", Groups: []string{fmt.Sprintf("group-%d", i)}, Scopes: []string{"run"}},
		})
	}
	r := predict("spiffe://td.test/gateway", "m")
	r.User = &identity.User{Issuer: "https://idp.test", Subject: "alice", Scopes: []string{"run"}, AMR: []string{"pwd", "mfa"}}
	for i := range 20 {
		r.User.Groups = append(r.User.Groups, fmt.Sprintf("other-%d", i))
	}
	r.User.Groups = append(r.User.Groups, fmt.Sprintf("group-%d", n/2))
	return p, r
}

func roleName(i int) string { return fmt.Sprintf("role-%d", i) }

func oneRule(i int) *configv1.Role {
	return &configv1.Role{
		Name:   roleName(i),
		Limits: &configv1.Limits{RequestsPerSecond: 1, RowsPerSecond: 1},
		Rules: []*configv1.Rule{{
			Actions: []configv1.Action{configv1.Action_PREDICT},
			Models:  []string{fmt.Sprintf("model-%d", i), fmt.Sprintf("family-%d-*", i)},
		}},
	}
}

func predict(caller, model string) policy.Request {
	return policy.Request{
		Caller: spiffeid.RequireFromString(caller), Address: netip.MustParseAddr("192.0.2.1"), Action: policy.Predict, Model: model,
	}
}

func BenchmarkDecide(b *testing.B) {
	for shape, build := range shapes {
		for _, n := range []int{10, 1_000, 100_000} {
			b.Run(fmt.Sprintf("%s/rules=%d", shape, n), func(b *testing.B) {
				p, r := build(n)
				decide(b, p, r)
			})
			b.Run(fmt.Sprintf("%s, conditions elsewhere/rules=%d", shape, n), func(b *testing.B) {
				p, r := build(n)
				decide(b, elsewhere(p, r), r)
			})
		}
	}
}

func decide(b *testing.B, p *configv1.Policy, r policy.Request) {
	ix := index(b, p)
	ix.Decide(r) // what the first decision learns is not measured
	b.ReportAllocs()
	for b.Loop() {
		if d := ix.Decide(r); !d.Allowed {
			b.Fatalf("refused: %+v", d)
		}
	}
}

func BenchmarkDecideForUser(b *testing.B) {
	for _, n := range []int{1, 1_000, 100_000} {
		b.Run(fmt.Sprintf("bindings=%d", n), func(b *testing.B) {
			p, r := byGroup(n)
			decide(b, p, r)
		})
		b.Run(fmt.Sprintf("bindings=%d, 10000 groups", n), func(b *testing.B) {
			p, r := byGroup(n)
			for i := range 10_000 {
				r.User.Groups = append(r.User.Groups, fmt.Sprintf("many-%d", i))
			}
			decide(b, p, r)
		})
	}
}

func BenchmarkDecideUnderCondition(b *testing.B) {
	for _, bm := range []struct{ name, when string }{
		{"constant", "true"},
		{"rows", "rows <= 1000"},
		{"rows or mfa", "rows <= 100 || 'mfa' in user.amr"},
		{"user, groups, rows", "user.present && user.issuer == 'https://idp.test' && ('admin' in user.groups || 'mfa' in user.amr) && rows <= 1000"},
		{"a walk over 10 groups", "!user.groups.exists(g, g.startsWith('x'))"},
		{"office hours", "now.getHours('Europe/Berlin') >= 8"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			r := call()
			for i := range 8 {
				r.User.Groups = append(r.User.Groups, fmt.Sprintf("group-%d", i))
			}
			decide(b, under(bm.when), r)
		})
	}
	b.Run("as dear as is accepted", func(b *testing.B) {
		r := call()
		r.User.Groups = nil
		for i := range 1000 {
			r.User.Groups = append(r.User.Groups, fmt.Sprintf("%0256d", i))
		}
		decide(b, under(strings.Repeat("user.groups.all(g, g != 'x') && ", 41)+"true"), r)
	})
}

func BenchmarkCompileConditions(b *testing.B) {
	for _, equal := range []bool{true, false} {
		for _, n := range []int{1_000, 100_000} {
			b.Run(fmt.Sprintf("equal=%v/rules=%d", equal, n), func(b *testing.B) {
				var whens []string
				for i := range n {
					if equal {
						i = 0
					}
					whens = append(whens, fmt.Sprintf("rows <= %d || 'mfa' in user.amr", i))
				}
				p := under(whens...)
				indexes := make([]*policy.Index, 1)
				for b.Loop() {
					indexes[0] = index(b, p)
				}
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(indexes[0])
				clear(indexes)
				runtime.GC()
				runtime.ReadMemStats(&before)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/rule")
			})
		}
	}
}

func BenchmarkDecideRefused(b *testing.B) {
	p, r := shapes["one role, many rules"](1_000)
	ix, err := policy.Compile(p)
	if err != nil {
		b.Fatal(err)
	}
	r.Model = "model-none"
	b.ReportAllocs()
	for b.Loop() {
		if ix.Decide(r).Allowed {
			b.Fatal("allowed")
		}
	}
}

// The size of the policy must not show in what a decision does.
func TestDecideDoesNotAllocate(t *testing.T) {
	for shape, build := range shapes {
		t.Run(shape, func(t *testing.T) {
			p, r := build(1_000)
			p.Blocked = []*configv1.Block{{Addresses: []string{"10.0.0.0/8", "10.1.0.0/16"}, Reason: "x"}}
			ix, err := policy.Compile(p)
			if err != nil {
				t.Fatal(err)
			}
			if n := testing.AllocsPerRun(100, func() { ix.Decide(r) }); n != 0 {
				t.Errorf("an allowed call costs %v allocations", n)
			}
			r.Action = policy.Describe
			if n := testing.AllocsPerRun(100, func() { ix.Decide(r) }); n != 0 {
				t.Errorf("a refused call costs %v allocations", n)
			}
			r.Action = policy.Predict
			ix = index(t, elsewhere(p, r))
			if n := testing.AllocsPerRun(100, func() { ix.Decide(r) }); n != 0 {
				t.Errorf("with conditions elsewhere, a call costs %v allocations", n)
			}
		})
	}
	for _, n := range []int{1, 1000} {
		t.Run(fmt.Sprintf("%d requirements of users", n), func(t *testing.T) {
			p, r := byGroup(n)
			ix := index(t, p)
			if n := testing.AllocsPerRun(100, func() { ix.Decide(r) }); n != 0 {
				t.Errorf("an allowed call costs %v allocations", n)
			}
			r.User = nil
			if n := testing.AllocsPerRun(100, func() { ix.Decide(r) }); n != 0 {
				t.Errorf("a refused call costs %v allocations", n)
			}
		})
	}
}
