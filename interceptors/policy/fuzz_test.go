package policy_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity"
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
			ever := ix.MayEver(r)
			if want := naiveMayEver(p, r); ever.Allowed != (len(want) > 0) || ever.Allowed && !slices.Equal(ever.Grant.Roles, want) {
				t.Fatalf("%+v: MayEver %+v, read word for word %v\n%v", r, ever, want, p)
			}
			if d.Allowed && r.Action <= policy.Introspect && !ever.Allowed {
				t.Fatalf("%+v: allowed, and may never\n%v", r, p)
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
	bindings := 5
	if d.IntN(4) == 0 {
		bindings = 60 // so many that users are looked up
	}
	for i := range 1 + d.IntN(4) {
		r := &configv1.Role{Name: fmt.Sprintf("r%d", i), Limits: &configv1.Limits{RequestsPerSecond: 1, RowsPerSecond: 1}}
		for range 1 + d.IntN(3) {
			rule := &configv1.Rule{Actions: d.actions()}
			if d.IntN(2) == 0 {
				rule.When = meanings[d.IntN(len(meanings))].when
			}
			for range d.IntN(3) {
				rule.Models = append(rule.Models, d.one(d.model(), d.model()+"*", "*"))
			}
			r.Rules = append(r.Rules, rule)
		}
		p.Roles = append(p.Roles, r)
	}
	bound := make(map[string]bool)
	for range d.IntN(bindings) {
		b := &configv1.Binding{Role: fmt.Sprintf("r%d", d.IntN(len(p.GetRoles()))), User: d.requirement()}
		for range 1 + d.IntN(3) {
			caller := d.pattern()
			if key := b.GetRole() + caller + fmt.Sprint(b.GetUser()); !bound[key] {
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
		User:    d.user(),
		Rows:    []int64{0, 1, 99, 100, 101, math.MaxInt64}[d.IntN(6)],
		Time:    []time.Time{{}, midday.Add(-time.Hour), midday, midday.Add(time.Hour)}[d.IntN(4)],
	}
}

var midday = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// some is a sorted choice of the values, each with the odds of one in n.
func (d drawer) some(n int, from ...string) (chosen []string) {
	for _, v := range from {
		if d.IntN(n) == 0 {
			chosen = append(chosen, v)
		}
	}
	return chosen
}

func (d drawer) requirement() *configv1.UserRequirement {
	if d.IntN(2) == 0 {
		return nil
	}
	return &configv1.UserRequirement{
		Issuer: d.one("i", "j"), Subjects: d.some(6, "a", "b"), Groups: d.some(5, "a", "b", "c"), Scopes: d.some(6, "a", "b"),
		Amr: d.some(6, "a", "b"), Acr: d.some(6, "a", "b"),
	}
}

func (d drawer) user() *identity.User {
	if d.IntN(4) == 0 {
		return nil
	}
	u := &identity.User{
		Issuer: d.one("i", "j"), Subject: d.one("a", "b", ""), Groups: d.some(2, "b", "a", "c", "d"), Scopes: d.some(2, "b", "a"),
		AMR: d.some(2, "b", "a"), ACR: d.one("a", "b", ""),
	}
	if len(u.Groups) == 0 && d.IntN(2) == 0 {
		u.Groups = []string{} // the token says that there are none
	}
	d.Shuffle(len(u.Groups), func(i, j int) { u.Groups[i], u.Groups[j] = u.Groups[j], u.Groups[i] })
	return u
}

// value is what a condition comes to.
type value int

const (
	isFalse value = iota
	isTrue
	isError
)

func is(b bool) value {
	if b {
		return isTrue
	}
	return isFalse
}

// meanings are conditions with what they mean.
var meanings = []struct {
	when  string
	means func(policy.Request) value
}{
	{"true", func(policy.Request) value { return isTrue }},
	{"false", func(policy.Request) value { return isFalse }},
	{"rows <= 100", func(r policy.Request) value { return is(r.Rows <= 100) }},
	{"action == 'PREDICT'", func(r policy.Request) value { return is(r.Action == policy.Predict) }},
	{"model.startsWith('m')", func(r policy.Request) value { return is(strings.HasPrefix(r.Model, "m")) }},
	{"caller.trust_domain == 'td' && caller.path != ''", func(r policy.Request) value {
		return is(strings.HasPrefix(r.Caller.String(), "spiffe://td/"))
	}},
	{"rows + 1 > 100", func(r policy.Request) value { // overflows
		if r.Rows == math.MaxInt64 {
			return isError
		}
		return is(r.Rows >= 100)
	}},
	{"rows + 1 > 100 || user.present", func(r policy.Request) value { // one true outweighs an error
		switch {
		case r.User != nil:
			return isTrue
		case r.Rows == math.MaxInt64:
			return isError
		}
		return is(r.Rows >= 100)
	}},
	{"user.present && 'a' in user.groups", func(r policy.Request) value {
		if r.User != nil && r.User.Groups == nil {
			return isError
		}
		return is(r.User != nil && slices.Contains(r.User.Groups, "a"))
	}},
	{"!('a' in user.groups)", func(r policy.Request) value { // not for a call that leaves its user out
		if r.User == nil || r.User.Groups == nil {
			return isError
		}
		return is(!slices.Contains(r.User.Groups, "a"))
	}},
	{"user.groups[0] == 'b'", func(r policy.Request) value {
		if r.User == nil || len(r.User.Groups) == 0 {
			return isError
		}
		return is(r.User.Groups[0] == "b")
	}},
	{"user.groups.exists(g, g in ['c', 'd'])", func(r policy.Request) value {
		if r.User == nil || r.User.Groups == nil {
			return isError
		}
		return is(slices.Contains(r.User.Groups, "c") || slices.Contains(r.User.Groups, "d"))
	}},
	{"has(user.acr) && user.acr != user.subject", func(r policy.Request) value {
		return is(r.User != nil && r.User.ACR != "" && r.User.ACR != r.User.Subject)
	}},
	{"now >= timestamp('2026-03-02T12:00:00Z')", func(r policy.Request) value {
		if r.Time.IsZero() {
			return isError
		}
		return is(!r.Time.Before(midday))
	}},
	{"caller.address.startsWith('10.')", func(r policy.Request) value {
		return is(strings.HasPrefix(strings.TrimPrefix(r.Address.String(), "::ffff:"), "10."))
	}},
}

// holds is what the condition of a rule comes to; a rule without one holds.
func holds(rule *configv1.Rule, r policy.Request) value {
	for _, m := range meanings {
		if m.when == rule.GetWhen() {
			return m.means(r)
		}
	}
	return isTrue
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
	if !slices.ContainsFunc(p.GetBindings(), func(b *configv1.Binding) bool { return names(b, r) }) {
		return policy.NoRole, nil
	}
	held := naiveRoles(p, r)
	if len(held) == 0 {
		return policy.UserMismatch, nil
	}
	var granting []string
	failed := false
	for _, role := range p.GetRoles() {
		if !slices.Contains(held, role.GetName()) {
			continue
		}
		granted := r.Action == policy.None
		for _, rule := range role.GetRules() {
			if !about(rule, r) {
				continue
			}
			switch holds(rule, r) {
			case isTrue:
				granted = true
			case isError:
				failed = true
			case isFalse:
			}
		}
		if granted {
			granting = append(granting, role.GetName())
		}
	}
	slices.Sort(granting)
	switch {
	case len(granting) > 0:
		return policy.Allowed, granting
	case failed:
		return policy.ConditionFailed, nil
	default:
		return policy.NotGranted, nil
	}
}

// about tells whether the rule is about the action and the model.
func about(rule *configv1.Rule, r policy.Request) bool {
	return slices.Contains(rule.GetActions(), configv1.Action(r.Action)) &&
		(r.Action == policy.Introspect || slices.ContainsFunc(rule.GetModels(), func(m string) bool {
			prefix, isPrefix := strings.CutSuffix(m, "*")
			return r.Model == m || isPrefix && strings.HasPrefix(r.Model, prefix)
		}))
}

// names tells whether the binding is for the caller, whatever the user.
func names(b *configv1.Binding, r policy.Request) bool {
	return slices.ContainsFunc(b.GetCallers(), func(c string) bool { return covers(c, r.Caller.String()) })
}

func naiveRoles(p *configv1.Policy, r policy.Request) (held []string) {
	for _, b := range p.GetBindings() {
		if names(b, r) && (b.GetUser() == nil || r.User != nil && isSuch(b.GetUser(), r.User)) {
			held = append(held, b.GetRole())
		}
	}
	return held
}

func isSuch(want *configv1.UserRequirement, u *identity.User) bool {
	oneOf := func(want []string, have ...string) bool {
		if len(want) == 0 {
			return true
		}
		for _, w := range want {
			if slices.Contains(have, w) {
				return true
			}
		}
		return false
	}
	allOf := func(want, have []string) bool {
		for _, w := range want {
			if !slices.Contains(have, w) {
				return false
			}
		}
		return true
	}
	return want.GetIssuer() == u.Issuer && oneOf(want.GetSubjects(), u.Subject) && oneOf(want.GetGroups(), u.Groups...) &&
		allOf(want.GetScopes(), u.Scopes) && allOf(want.GetAmr(), u.AMR) && oneOf(want.GetAcr(), u.ACR)
}

// naiveMayEver are the roles that allow the action on any model.
func naiveMayEver(p *configv1.Policy, r policy.Request) (granting []string) {
	outcome, roles := naive(p, r)
	if outcome == policy.CallerBlocked || outcome == policy.AddressBlocked {
		return nil
	}
	if r.Action == policy.Introspect { // about no model: all is known
		return roles
	}
	held := naiveRoles(p, r)
	for _, role := range p.GetRoles() {
		if slices.Contains(held, role.GetName()) && (r.Action == policy.None || slices.ContainsFunc(role.GetRules(), func(rule *configv1.Rule) bool {
			return slices.Contains(rule.GetActions(), configv1.Action(r.Action)) && len(rule.GetModels()) > 0
		})) {
			granting = append(granting, role.GetName())
		}
	}
	slices.Sort(granting)
	return granting
}

func covers(pattern, id string) bool {
	base, under := strings.CutSuffix(pattern, "/*")
	wholeDomain := under && !strings.Contains(strings.TrimPrefix(base, "spiffe://"), "/")
	return !under && id == base || under && strings.HasPrefix(id, base+"/") || wholeDomain && id == base
}
