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
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// under is a policy with one rule for each condition, each in a role of its own:
// r0, r1, …
func under(whens ...string) *configv1.Policy {
	p := &configv1.Policy{}
	for i, when := range whens {
		r := &configv1.Role{Name: fmt.Sprintf("r%d", i), Limits: &configv1.Limits{RequestsPerSecond: float64(i + 1), RowsPerSecond: 1}}
		r.Rules = []*configv1.Rule{{Actions: []configv1.Action{configv1.Action_PREDICT}, Models: []string{"m*"}, When: when}}
		p.Roles = append(p.Roles, r)
		p.Bindings = append(p.Bindings, &configv1.Binding{Role: r.GetName(), Callers: []string{"spiffe://td.test/*"}})
	}
	return p
}

func index(t testing.TB, p *configv1.Policy) *policy.Index {
	t.Helper()
	ix, err := policy.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) // a Monday

func call() policy.Request {
	return policy.Request{
		Caller: spiffeid.RequireFromString("spiffe://td.test/clinic/triage"), Address: netip.MustParseAddr("::ffff:192.0.2.1"),
		User: &identity.User{
			Issuer: "https://idp.test", Subject: "alice", Groups: []string{"doctors", "night"}, Scopes: []string{"run"}, AMR: []string{"pwd", "mfa"}, ACR: "gold",
		},
		Action: policy.Predict, Model: "m1", Rows: 200, Time: noon,
	}
}

func TestConditionReads(t *testing.T) {
	for when, want := range map[string]policy.Outcome{
		"true":                             policy.Allowed,
		"false":                            policy.NotGranted,
		"rows == 200":                      policy.Allowed,
		"rows <= 100 || 'mfa' in user.amr": policy.Allowed,
		"rows <= 100":                      policy.NotGranted,
		"action == 'PREDICT'":              policy.Allowed,
		"action == 'DESCRIBE'":             policy.NotGranted,
		"model == 'm1'":                    policy.Allowed,
		"now == timestamp('2026-03-02T12:00:00Z')":                        policy.Allowed,
		"now.getHours('Europe/Berlin') == 13 && now.getDayOfWeek() == 1":  policy.Allowed,
		"now.getHours('-03:30') == 8":                                     policy.Allowed,
		"caller.id == 'spiffe://td.test/clinic/triage'":                   policy.Allowed,
		"caller.trust_domain == 'td.test'":                                policy.Allowed,
		"caller.path == '/clinic/triage'":                                 policy.Allowed,
		"caller.path.matches('^/clinic/[a-z]+$')":                         policy.Allowed,
		"caller.path.matches('^/lab/[a-z]+$')":                            policy.NotGranted,
		"caller.address == '192.0.2.1'":                                   policy.Allowed,
		"user.present":                                                    policy.Allowed,
		"user.issuer == 'https://idp.test' && user.subject == 'alice'":    policy.Allowed,
		"user.groups == ['doctors', 'night']":                             policy.Allowed,
		"'doctors' in user.groups && !('nurses' in user.groups)":          policy.Allowed,
		"'doctor' in user.groups":                                         policy.NotGranted,
		"user.groups.exists(g, g.startsWith('doc'))":                      policy.Allowed,
		"user.groups[1] == 'night' && size(user.groups) == 2":             policy.Allowed,
		"user.groups[2] == 'night'":                                       policy.ConditionFailed,
		"user.scopes == ['run'] && user.acr == 'gold' && has(user.acr)":   policy.Allowed,
		"int(user.acr) > 3":                                               policy.ConditionFailed,
		"rows / 0 == 1":                                                   policy.ConditionFailed,
		"rows / 0 == 1 || true":                                           policy.Allowed,
		"rows / 0 == 1 && false":                                          policy.NotGranted,
		"dyn(user.groups).exists(g, g in ['night'])":                      policy.Allowed,
		"1 in user.groups.map(g, size(g))":                                policy.NotGranted,
		"dyn(1) in user.groups":                                           policy.NotGranted,
		"duration('1h') > duration('30m') && now - now == duration('0s')": policy.Allowed,
	} {
		t.Run(when, func(t *testing.T) {
			if d := index(t, under(when)).Decide(call()); d.Outcome != want || d.Allowed != (want == policy.Allowed) || d.Allowed != (d.Grant != nil) {
				t.Errorf("%+v, want %v", d, want)
			}
		})
	}
}

// What is not known must not look like an empty value: a condition that forbids
// something would hold for a call that leaves it out.
func TestConditionOnWhatIsNotKnown(t *testing.T) {
	tests := []struct {
		name string
		when string
		lose func(*policy.Request)
		want policy.Outcome
	}{
		{"no user: groups", "!('suspended' in user.groups)", func(r *policy.Request) { r.User = nil }, policy.ConditionFailed},
		{"no user: subject", "user.subject != 'mallory'", func(r *policy.Request) { r.User = nil }, policy.ConditionFailed},
		{"no user: acr", "user.acr != 'bronze'", func(r *policy.Request) { r.User = nil }, policy.ConditionFailed},
		{"no user: present", "!user.present", func(r *policy.Request) { r.User = nil }, policy.Allowed},
		{"no user: has", "!has(user.acr) && !has(user.groups) && !has(user.present)", func(r *policy.Request) { r.User = nil }, policy.Allowed},
		{"no user: asked first", "!user.present || 'mfa' in user.amr", func(r *policy.Request) { r.User = nil }, policy.Allowed},
		{"no claims: has", "!has(user.acr) && !has(user.groups)", func(r *policy.Request) { r.User = &identity.User{Issuer: "i"} }, policy.Allowed},
		{"no claims: groups", "!('suspended' in user.groups)", func(r *policy.Request) { r.User = &identity.User{Issuer: "i"} }, policy.ConditionFailed},
		{"no claims: scopes", "!('guest' in user.scopes)", func(r *policy.Request) { r.User = &identity.User{Issuer: "i"} }, policy.ConditionFailed},
		{"no claims: amr", "!('pwd' in user.amr)", func(r *policy.Request) { r.User = &identity.User{Issuer: "i"} }, policy.ConditionFailed},
		{"no claims: acr", "user.acr != 'bronze'", func(r *policy.Request) { r.User = &identity.User{Issuer: "i"} }, policy.ConditionFailed},
		{"no groups, said so", "!('suspended' in user.groups)", func(r *policy.Request) { r.User = &identity.User{Issuer: "i", Groups: []string{}} }, policy.Allowed},
		{"no address", "!caller.address.startsWith('10.')", func(r *policy.Request) { r.Address = netip.Addr{} }, policy.ConditionFailed},
		{"no time", "now < timestamp('2030-01-01T00:00:00Z')", func(r *policy.Request) { r.Time = time.Time{} }, policy.ConditionFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := call()
			tt.lose(&r)
			if d := index(t, under(tt.when)).Decide(r); d.Outcome != tt.want {
				t.Errorf("%+v, want %v", d, tt.want)
			}
		})
	}
}

func TestConditionsAndGrants(t *testing.T) {
	fails, yes, no := "user.groups[9] == ''", "rows > 1", "rows > 1000"
	tests := []struct {
		name  string
		whens []string
		want  policy.Outcome
		roles string
	}{
		{"only the roles that allow this call", []string{yes, no, "", fails, "rows == 200"}, policy.Allowed, "r0,r2,r4"},
		{"unconditional beside false", []string{"", no}, policy.Allowed, "r0"},
		{"unconditional beside an error", []string{"", fails}, policy.Allowed, "r0"},
		{"an error denies by its rule alone", []string{fails, yes}, policy.Allowed, "r1"},
		{"an error and false", []string{no, fails}, policy.ConditionFailed, ""},
		{"false", []string{no, no}, policy.NotGranted, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ix := index(t, under(tt.whens...))
			for range 2 {
				d := ix.Decide(call())
				if d.Outcome != tt.want {
					t.Fatalf("%+v, want %v", d, tt.want)
				}
				if d.Allowed && (d.Grant.Key != tt.roles || strings.Join(d.Grant.Roles, ",") != tt.roles) {
					t.Errorf("granted by %v, want %s", d.Grant, tt.roles)
				}
				if d.Allowed && ix.Decide(call()).Grant != d.Grant {
					t.Error("the same roles gave two grants")
				}
			}
		})
	}
	t.Run("limits are those of the roles that allow the call", func(t *testing.T) {
		ix := index(t, under(no, yes, no))
		if d := ix.Decide(call()); d.Grant == nil || d.Grant.Limits.RequestsPerSecond != 2 {
			t.Errorf("%+v", d.Grant)
		}
		r := call()
		r.Rows = 2000
		if d := ix.Decide(r); d.Grant == nil || d.Grant.Key != "r0,r1,r2" || d.Grant.Limits.RequestsPerSecond != 3 {
			t.Errorf("%+v", d.Grant)
		}
	})
	t.Run("a role with an unconditional rule beside a conditional one", func(t *testing.T) {
		p := under(no)
		p.Roles[0].Rules = append(p.Roles[0].Rules, &configv1.Rule{Actions: []configv1.Action{configv1.Action_PREDICT}, Models: []string{"m1"}})
		if d := index(t, p).Decide(call()); !d.Allowed {
			t.Errorf("%+v", d)
		}
		r := call()
		r.Model = "m2"
		if d := index(t, p).Decide(r); d.Allowed {
			t.Errorf("%+v", d)
		}
	})
}

func TestConditionDetails(t *testing.T) {
	decide := func(r policy.Request, whens ...string) policy.Decision { return index(t, under(whens...)).Decide(r) }
	if d := decide(call(), "rows < 1", "rows < 2"); d.Detail != "when is false: role r0 rules[0], role r1 rules[0]" {
		t.Errorf("false: %q", d.Detail)
	}
	if d := decide(call(), "rows < 1", "user.groups[7] == ''", "int(user.acr) == 1"); d.Detail != "role r1 rules[0].when: index out of bounds: 7; 1 more could not be evaluated" {
		t.Errorf("failed: %q", d.Detail)
	} else if d.Impersonal != "role r1 rules[0].when could not be evaluated; 1 more could not be evaluated" {
		t.Errorf("failed, without values: %q", d.Impersonal)
	}
	var whens []string
	for i := range 200 {
		whens = append(whens, fmt.Sprintf("rows < %d", i))
	}
	if d := decide(call(), whens...); !strings.HasSuffix(d.Detail, "role r100 rules[0], and 196 more") || len(d.Detail) > 512 {
		t.Errorf("many: %q", d.Detail)
	}
	r := call()
	r.User.ACR = strings.Repeat("é\xff", 500)
	if d := decide(r, "{'a': true}[user.acr]"); d.Outcome != policy.ConditionFailed || len(d.Detail) > 512 || !utf8.ValidString(d.Detail) {
		t.Errorf("a long claim in an error: %d bytes, %q", len(d.Detail), d.Detail)
	}
}

func TestMayEverLeavesConditionsAside(t *testing.T) {
	p := under("false", "user.groups[9] == ''")
	p.Roles[0].Rules[0].Actions = []configv1.Action{configv1.Action_PREDICT, configv1.Action_INTROSPECT}
	p.Bindings[1].User = &configv1.UserRequirement{Issuer: "https://idp.test"}
	ix := index(t, p)
	r := call()
	if d := ix.MayEver(r); !d.Allowed || d.Grant.Key != "r0,r1" {
		t.Errorf("%+v", d)
	}
	r.User = nil
	if d := ix.MayEver(r); !d.Allowed || d.Grant.Key != "r0" {
		t.Errorf("without a user: %+v", d)
	}
	r.Action = policy.None
	if d := ix.Decide(r); !d.Allowed || d.Grant.Key != "r0" {
		t.Errorf("what needs no permission: %+v", d)
	}
	r.Action, r.Model = policy.Introspect, ""
	// Introspect is about no model: nothing becomes known of it later.
	for name, decide := range map[string]func(*policy.Index, policy.Request) policy.Decision{"Decide": (*policy.Index).Decide, "MayEver": (*policy.Index).MayEver} {
		if d := decide(ix, r); d.Outcome != policy.NotGranted {
			t.Errorf("%s: introspect under a condition: %+v", name, d)
		}
		p.Roles[0].Rules[0].When = "model == '' && action == 'INTROSPECT'"
		if d := decide(index(t, p), r); !d.Allowed {
			t.Errorf("%s: introspect under a condition that holds: %+v", name, d)
		}
	}
}

func TestCompileRefusesConditions(t *testing.T) {
	tests := []struct {
		name, when string
		want       []string
	}{
		{"a misspelt field", "user.grups == []", []string{"roles[0].rules[0].when: ", "undefined field 'grups'", " | user.grups == []\n | ....^"}},
		{"a misspelt variable", "usr.groups == []", []string{"undeclared reference to 'usr'"}},
		{"a misspelt field in has", "has(user.grups)", []string{"undefined field"}},
		{"a field of the other object", "caller.subject == ''", []string{"undefined field"}},
		{"no bool", "rows", []string{"int, not bool"}},
		{"a bool that only the call would tell", "dyn(rows)", []string{"not bool"}},
		{"other types", "rows == '3'", []string{"no matching overload"}},
		{"an index into a string", "caller.path[0] == '/'", []string{"no matching overload"}},
		{"half an expression", "'x' in", []string{"Syntax error"}},
		{"blanks", "  ", []string{"roles[0].rules[0].when"}},
		{"the user as a whole", "user != user", []string{"name a field", "groups"}},
		{"the user hidden from the check", "dyn(user).grups == []", []string{"name a field"}},
		{"the user in a list", "[user][0].acr == 'x'", []string{"name a field"}},
		{"an object", "google.protobuf.Int64Value{value: 1} == 1", []string{"no objects"}},
		{"a function of an extension", "user.acr.lowerAscii() == 'x'", []string{"undeclared reference"}},
		{"a walk for each entry of another list", "user.groups.exists(g, user.groups.exists(h, g == h))", []string{"steps", "limit"}},
		{"a walk for each entry, hidden in a comparison", "user.groups.exists(g, user.groups == user.scopes)", []string{"steps"}},
		{"a walk for each entry, hidden in in", "user.groups.exists(g, g in user.scopes)", []string{"steps"}},
		{"strings that double", "[user.acr]" + strings.Repeat(".map(x, x + x)", 30) + " == []", []string{"steps"}},
		{"lists that double", "[1]" + strings.Repeat(".map(x, [x, x])", 100) + ".size() == 1", []string{"when"}},
		{"2 KiB of walks", strings.Repeat("user.groups.all(g, g != 'x') && ", 63) + "true", []string{"steps"}},
		{"2 KiB of brackets", strings.Repeat("(", 1000) + "true" + strings.Repeat(")", 1000), []string{"when", "recursion"}},
		{"2 KiB of not", strings.Repeat("!", 2000) + "true", nil},
		{"more than 2 KiB", "true" + strings.Repeat(" ", 2048), []string{"2048"}},
		{"more than 2 KiB, fewer letters", "model != '" + strings.Repeat("é", 1100) + "'", []string{"2048"}},
		{"a time zone read for each entry", "user.groups.exists(g, now.getHours('Europe/Berlin') == size(g) || now.getMinutes('Europe/Berlin') == size(g))", []string{"steps"}},
		{"a pattern from the call", "caller.path.matches(user.acr)", []string{"must be a literal"}},
		{"a pattern that is none", "caller.path.matches('(')", []string{"missing closing )"}},
		{"a pattern with a repetition of repetitions", "caller.path.matches('(x{100}){100}')", []string{"repeat"}},
		{"a pattern that grows large", "caller.path.matches('(a?){900}')", []string{"instructions"}},
		{"a pattern that is large, for each entry", "user.groups.exists(g, g.matches('(a?){200}'))", []string{"steps"}},
		{"a time zone from the call", "now.getHours(user.acr) == 1", []string{"must be a literal"}},
		{"a time zone that is not there", "now.getHours('Mars/Base') == 1", []string{"unknown time zone"}},
		{"an offset that is none", "now.getHours('+2x:00') == 1", []string{"unknown time zone"}},
		{"a file instead of a time zone", "now.getHours('../../etc/passwd') == 1", []string{"time"}},
		{"a time that is none", "now < timestamp('tomorrow')", []string{"timestamp"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			ix, err := policy.Compile(under(tt.when))
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			if tt.want == nil { // harmless, if it compiles
				return
			}
			if err == nil || ix != nil {
				t.Fatal("compiled")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in the error:\n%v", want, err)
				}
			}
		})
	}
	t.Run("every place of a fault", func(t *testing.T) {
		_, err := policy.Compile(under("true", "rows", "true", "rows"))
		if err == nil || !strings.Contains(err.Error(), "roles[1].rules[0].when") || !strings.Contains(err.Error(), "roles[3].rules[0].when") {
			t.Errorf("error %v", err)
		}
	})
}

func TestHostileValues(t *testing.T) {
	groups := func(n, bytes int) []string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf("%0*d", bytes, i)
		}
		return all
	}
	walk := "user.groups.all(g, !g.contains('x')) && user.present"
	tests := []struct {
		name  string
		whens []string
		r     func(*policy.Request)
		want  policy.Outcome
	}{
		{"as many groups as are read", []string{walk}, func(r *policy.Request) { r.User.Groups = groups(1000, 256) }, policy.Allowed},
		{"more groups", []string{walk}, func(r *policy.Request) { r.User.Groups = groups(1001, 4) }, policy.ConditionFailed},
		{"10,000 groups", []string{"!('x' in user.groups)"}, func(r *policy.Request) { r.User.Groups = groups(10_000, 4) }, policy.ConditionFailed},
		{"10,000 groups that nobody reads", []string{"user.subject == 'alice'"}, func(r *policy.Request) { r.User.Groups = groups(10_000, 4) }, policy.Allowed},
		{"a longer group", []string{walk}, func(r *policy.Request) { r.User.Groups = groups(1, 257) }, policy.ConditionFailed},
		{"a huge subject", []string{"user.subject != 'mallory'"}, func(r *policy.Request) { r.User.Subject = strings.Repeat("x", 1<<20) }, policy.ConditionFailed},
		{"a huge model", []string{"model != 'secret'"}, func(r *policy.Request) { r.Model = strings.Repeat("m", 1<<20) }, policy.ConditionFailed},
		{"rows at the end of their range", []string{"rows > 100"}, func(r *policy.Request) { r.Rows = math.MaxInt64 }, policy.Allowed},
		{"rows that overflow", []string{"rows * 2 > 100"}, func(r *policy.Request) { r.Rows = math.MaxInt64 }, policy.ConditionFailed},
		{"rows that overflow downwards", []string{"rows + 1 <= 100"}, func(r *policy.Request) { r.Rows = math.MaxInt64 }, policy.ConditionFailed},
		{"conditions that cost too much together", []string{
			strings.Repeat("user.groups.all(g, g != 'x0') && ", 35) + "false", strings.Repeat("user.groups.all(g, g != 'x1') && ", 35) + "false",
			strings.Repeat("user.groups.all(g, g != 'x2') && ", 35) + "true",
		}, func(r *policy.Request) { r.User.Groups = groups(1000, 4) }, policy.ConditionFailed},
		{"few conditions in many roles", slices.Repeat([]string{"'x' in user.groups.map(g, g + g)", "user.groups.exists(g, g == 'x')"}, 100), func(r *policy.Request) { r.User.Groups = groups(1000, 4) }, policy.NotGranted},
		{"the same for a user of few groups", []string{
			strings.Repeat("user.groups.all(g, g != 'x0') && ", 35) + "false", strings.Repeat("user.groups.all(g, g != 'x1') && ", 35) + "false",
			strings.Repeat("user.groups.all(g, g != 'x2') && ", 35) + "true",
		}, func(*policy.Request) {}, policy.Allowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ix := index(t, under(tt.whens...))
			r := call()
			tt.r(&r)
			start := time.Now()
			d := ix.Decide(r)
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if d.Outcome != tt.want || len(d.Detail) > 512 {
				t.Errorf("%+v, want %v", d, tt.want)
			}
		})
	}
}

// What is kept of the grants of sets of roles is bounded: a caller has a say in
// which sets there are.
func TestSetsOfRolesFillNoMemory(t *testing.T) {
	var whens []string
	for i := range 20 {
		whens = append(whens, fmt.Sprintf("rows / %d %% 2 == 1", 1<<i))
	}
	ix := index(t, under(whens...))
	r := call()
	for r.Rows = 1; r.Rows < 2000; r.Rows++ {
		if d := ix.Decide(r); !d.Allowed || len(d.Grant.Roles) == 0 {
			t.Fatalf("%d rows: %+v", r.Rows, d)
		}
	}
	if n := ix.Kept(); n > 300 {
		t.Errorf("%d entries for one caller and model", n)
	}
}

// A panic within CEL must neither allow a call nor end the process.
func TestPanicInAConditionDenies(t *testing.T) {
	if value, err := policy.EvalPanicking("rows > 1"); value || err == nil {
		t.Errorf("value %v, error %v", value, err)
	}
}

func TestPanicAtLoadIsAFault(t *testing.T) {
	defer policy.PanicAtLoad()()
	if ix, err := policy.Compile(under("true")); err == nil || ix != nil || !strings.Contains(err.Error(), "roles[0].rules[0].when") {
		t.Errorf("index %v, error %v", ix, err)
	}
}

// The limits rest on the estimate: it must not be less than what an evaluation
// takes.
func TestEstimateIsAnUpperBound(t *testing.T) {
	for _, items := range []int{0, 3, 10, 11, 100, 1000} {
		for _, bytes := range []int{4, 256} {
			r := call()
			r.User = &identity.User{Issuer: strings.Repeat("i", 2048), Subject: strings.Repeat("s", 2048), ACR: strings.Repeat("c", 2048), Groups: []string{}}
			for i := range items {
				r.User.Groups = append(r.User.Groups, fmt.Sprintf("%0*d", bytes, i))
			}
			r.User.Scopes, r.User.AMR = r.User.Groups, r.User.Groups
			for _, when := range []string{
				"rows <= 100 || 'mfa' in user.amr",
				"user.groups.exists(g, g == 'x')",
				"user.groups.all(g, !g.startsWith(user.acr))",
				"user.groups.all(g, !g.contains('xyz'))",
				"user.groups.all(g, !g.matches('x.*y'))",
				"user.groups.all(user, !user.endsWith('x'))",
				"user.groups.filter(g, g != 'x').map(g, g + 'x').exists(g, g == 'y')",
				"[user.acr, user.subject].map(x, x + x).map(x, x + x).exists(x, x.contains('y'))",
				"(user.groups + user.scopes + user.amr).exists(g, g == 'x')",
				"user.groups.exists_one(g, size(g) > 300)",
				"'x' in user.groups.map(g, g + g)",
				"(rows > 1 ? user.groups : user.scopes).exists(g, g == 'x')",
				"user.groups.map(g, [g, g]).exists(p, p.exists(g, g == 'x'))",
				"string(bytes(user.acr) + bytes(user.issuer)) == user.subject",
				"{'a': user.groups, 'b': user.scopes}.exists(k, k == user.acr)",
				"user.acr + user.issuer + user.subject + user.acr == user.subject + user.acr",
				"[1, 2, 3].map(x, user.groups.map(g, g + 'y')).exists(l, l.exists(g, g == 'x'))",
			} {
				counted, estimated, err := policy.Steps(when, r)
				if err != nil {
					t.Errorf("%s: %v", when, err)
				}
				if counted > estimated {
					t.Errorf("%s, %d items of %d bytes: %d steps, estimated %d", when, items, bytes, counted, estimated)
				}
			}
		}
	}
}

// expressions draws expressions of a type from a grammar. vars are the strings in
// scope.
type expressions struct{ drawer }

func (d expressions) bool(depth int, vars []string) string {
	if depth == 0 {
		return d.one("true", "user.present", "rows > 3")
	}
	depth--
	switch d.IntN(9) {
	case 0:
		return "(" + d.bool(depth, vars) + d.one(" && ", " || ") + d.bool(depth, vars) + ")"
	case 1:
		return "!" + d.bool(depth, vars)
	case 2:
		return d.string(depth, vars) + d.one(" == ", " != ", " < ") + d.string(depth, vars)
	case 3:
		return d.string(depth, vars) + d.one(".startsWith", ".contains", ".endsWith") + "(" + d.string(depth, vars) + ")"
	case 4:
		return d.string(depth, vars) + ".matches('" + d.one("x", "^x.*y$", "(a|b)*c", "[a-z]{1,40}$") + "')"
	case 5:
		return d.string(depth, vars) + " in " + d.list(depth, vars)
	case 6:
		return d.list(depth, vars) + " == " + d.list(depth, vars)
	case 7:
		return "size(" + d.list(depth, vars) + ") > 2"
	default:
		v := fmt.Sprintf("v%d", len(vars))
		return d.list(depth, vars) + d.one(".exists(", ".all(", ".exists_one(") + v + ", " + d.bool(depth, append(vars[:len(vars):len(vars)], v)) + ")"
	}
}

func (d expressions) string(depth int, vars []string) string {
	if depth == 0 || d.IntN(2) == 0 {
		return d.one(append(vars, "'x'", "'0'", "user.acr", "user.subject", "model", "caller.path")...)
	}
	depth--
	switch d.IntN(4) {
	case 0:
		return "(" + d.string(depth, vars) + " + " + d.string(depth, vars) + ")"
	case 1:
		return d.list(depth, vars) + "[0]"
	case 2:
		return "string(bytes(" + d.string(depth, vars) + "))"
	default:
		return "(" + d.bool(depth, vars) + " ? " + d.string(depth, vars) + " : " + d.string(depth, vars) + ")"
	}
}

func (d expressions) list(depth int, vars []string) string {
	if depth == 0 || d.IntN(2) == 0 {
		return d.one("user.groups", "user.groups", "user.scopes", "user.amr")
	}
	depth--
	v := fmt.Sprintf("v%d", len(vars))
	more := append(vars[:len(vars):len(vars)], v)
	switch d.IntN(4) {
	case 0:
		return "(" + d.list(depth, vars) + " + " + d.list(depth, vars) + ")"
	case 1:
		return "[" + d.string(depth, vars) + ", " + d.string(depth, vars) + "]"
	case 2:
		return d.list(depth, vars) + ".map(" + v + ", " + d.string(depth, more) + ")"
	default:
		return d.list(depth, vars) + ".filter(" + v + ", " + d.bool(depth, more) + ")"
	}
}

// FuzzCost draws expressions. No accepted one takes more steps than the estimate
// says, nor long.
func FuzzCost(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		d := expressions{drawer{rand.New(rand.NewPCG(seed, 1))}}
		r := call()
		for range []int{0, 3, 20, 200}[d.IntN(4)] {
			r.User.Groups = append(r.User.Groups, strings.Repeat(d.one("0", "x"), 256))
		}
		r.User.ACR, r.User.Subject = strings.Repeat(d.one("0", "x"), 2048), strings.Repeat("0", 2048)
		when := d.bool(5, nil)
		start := time.Now()
		ix, err := policy.Compile(under(when))
		if err != nil {
			return
		}
		ix.Decide(r)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s takes %v", when, took)
		}
		// CEL rounds each step to a whole one, up or down.
		if counted, estimated, _ := policy.Steps(when, r); counted > estimated+estimated/20+5 {
			t.Errorf("%s takes %d steps, estimated %d", when, counted, estimated)
		}
	})
}
