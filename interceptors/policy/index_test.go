package policy_test

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// Thousands of times the rules must not cost twenty times the time: the room is
// for a busy machine, not for a scan.
func TestDecideCostsTheSameForEveryPolicy(t *testing.T) {
	cost := func(build func(int) (*configv1.Policy, policy.Request), n int) time.Duration {
		p, r := build(n)
		ix := index(t, p)
		ix.Decide(r)
		least := time.Duration(math.MaxInt64)
		for range 20 {
			start := time.Now()
			for range 100 {
				ix.Decide(r)
			}
			least = min(least, time.Since(start))
		}
		return least
	}
	flat := func(t *testing.T, build func(int) (*configv1.Policy, policy.Request)) {
		t.Helper()
		if few, many := cost(build, 2), cost(build, 5_000); many > 20*few {
			t.Errorf("100 decisions cost %v with 2 rules and %v with 5,000", few, many)
		}
	}
	for shape, build := range shapes {
		t.Run(shape, func(t *testing.T) { flat(t, build) })
		t.Run(shape+", conditions elsewhere", func(t *testing.T) {
			flat(t, func(n int) (*configv1.Policy, policy.Request) {
				p, r := build(n)
				return elsewhere(p, r), r
			})
		})
	}
	t.Run("one caller, many groups of users", func(t *testing.T) { flat(t, byGroup) })
	t.Run("one condition, many rules", func(t *testing.T) {
		flat(t, func(n int) (*configv1.Policy, policy.Request) {
			p, r := shapes["one role, many rules"](n)
			for _, rule := range p.GetRoles()[0].GetRules() {
				rule.When, rule.Models = "rows == 0", []string{rule.GetModels()[0], fmt.Sprintf("model-%d*", n/2)}
			}
			return p, r
		})
	})
}

func TestIndexKeepsItsPolicy(t *testing.T) {
	p, r := shapes["one role, many rules"](3)
	ix, err := policy.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	before := ix.Explain(r).String()
	p.Roles[0].Rules = p.GetRoles()[0].GetRules()[:1]
	p.Bindings[0].Callers[0] = "spiffe://other.test/*"
	if after := ix.Explain(r).String(); after != before {
		t.Errorf("a change of the message has changed the index:\n%s", after)
	}
}

func TestModelNamesFillNoMemory(t *testing.T) {
	ix := compile(t, clinic)
	r := policy.Request{
		Caller: spiffeid.RequireFromString("spiffe://wide.test/deep/x"), Address: netip.MustParseAddr("192.0.2.1"), Action: policy.Describe,
	}
	for i := range 10_000 {
		r.Model = fmt.Sprintf("made-up-%d", i)
		if !ix.Decide(r).Allowed {
			t.Fatal("refused")
		}
	}
	if n := ix.Kept(); n != 1 {
		t.Errorf("%d names that one pattern matches left %d entries", 10_000, n)
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	p, _ := shapes["one role, many rules"](100)
	ix, err := policy.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	ix.SetMaxKept(10)
	for range 2 {
		for i := range 100 {
			d := ix.Decide(predict("spiffe://td.test/a", fmt.Sprintf("model-%d", i)))
			if !d.Allowed || d.Grant.Key != "r" {
				t.Fatalf("model %d: %+v", i, d)
			}
		}
	}
	if n := ix.Kept(); n != 10 {
		t.Errorf("%d kept, want 10", n)
	}
}

// The roles that are kept for the grants of sets count; those that no set needs
// are not kept.
func TestKeptRolesAreCounted(t *testing.T) {
	for _, tt := range []struct {
		name          string
		conditions    int
		maxKept, want int
	}{
		{name: "alone", maxKept: 1000, want: 1},
		{name: "with a condition", conditions: 1, maxKept: 1000, want: 103}, // 1 and 100 roles, a candidate, a set
		{name: "more than fits", conditions: 1, maxKept: 50, want: 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			whens := make([]string, 100+tt.conditions)
			for i := range tt.conditions {
				whens[i] = "rows > 0"
			}
			ix := index(t, under(whens...))
			ix.SetMaxKept(tt.maxKept)
			for range 2 {
				if d := ix.Decide(call()); !d.Allowed || len(d.Grant.Roles) != len(whens) {
					t.Fatalf("%+v", d)
				}
			}
			if n := ix.Kept(); n != tt.want {
				t.Errorf("%d kept, want %d", n, tt.want)
			}
		})
	}
}

func TestDecideConcurrently(t *testing.T) {
	p, _ := shapes["one caller, many roles"](200)
	ix, err := policy.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				r := predict("spiffe://td.test/ns/1", fmt.Sprintf("model-%d", i))
				if d := ix.Decide(r); !d.Allowed || d.Grant.Key != roleName(i) || ix.Decide(r).Grant != d.Grant {
					t.Errorf("model %d: %+v", i, d)
				}
			}
		})
	}
	wg.Wait()
}
