package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
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
				ix, err := policy.Compile(p)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if d := ix.Decide(r); !d.Allowed {
						b.Fatalf("refused: %+v", d)
					}
				}
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
		})
	}
}
