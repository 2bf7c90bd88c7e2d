package policy_test

import (
	"fmt"
	"strings"
	"testing"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// gateway calls on behalf of users; each role is of another requirement, so that
// which roles a grant has tells which bindings matched.
const gateway = `
roles:
  - {name: plain, rules: [{actions: [DESCRIBE], models: ["*"]}], limits: {requests_per_second: 1, rows_per_second: 1}}
  - {name: any, rules: [{actions: [PREDICT], models: ["*"]}], limits: {requests_per_second: 2, rows_per_second: 2}}
  - {name: named, rules: [{actions: [PREDICT], models: ["*"]}], limits: {requests_per_second: 3, rows_per_second: 3}}
  - {name: grouped, rules: [{actions: [PREDICT], models: ["*"]}], limits: {requests_per_second: 4, rows_per_second: 4}}
  - {name: scoped, rules: [{actions: [PREDICT], models: ["*"]}], limits: {requests_per_second: 5, rows_per_second: 5}}
  - {name: mfa, rules: [{actions: [PREDICT], models: ["*"]}], limits: {requests_per_second: 6, rows_per_second: 6}}
  - {name: classed, rules: [{actions: [PREDICT], models: ["*"]}], limits: {requests_per_second: 7, rows_per_second: 7}}
  - {name: strict, rules: [{actions: [PREDICT, DESCRIBE], models: ["secret"]}], limits: {requests_per_second: 8, rows_per_second: 8}}
bindings:
  - {role: plain, callers: ["spiffe://td.test/web"]}
  - {role: any, callers: ["spiffe://td.test/web"], user: {issuer: "https://any.test"}}
  - {role: named, callers: ["spiffe://td.test/web"], user: {issuer: "https://idp.test", subjects: [alice, bob]}}
  - {role: grouped, callers: ["spiffe://td.test/web"], user: {issuer: "https://idp.test", groups: [doctors, nurses]}}
  - {role: scoped, callers: ["spiffe://td.test/web"], user: {issuer: "https://idp.test", scopes: [read, run]}}
  - {role: mfa, callers: ["spiffe://td.test/web"], user: {issuer: "https://idp.test", amr: [pwd, mfa]}}
  - {role: classed, callers: ["spiffe://td.test/web"], user: {issuer: "https://idp.test", acr: [gold, silver]}}
  - {role: strict, callers: ["spiffe://td.test/only/*"], user: {issuer: "https://idp.test", subjects: [alice], groups: [doctors], scopes: [run], amr: [mfa], acr: [gold]}}
  - {role: strict, callers: ["spiffe://td.test/only/*"], user: {issuer: "https://idp.test", subjects: [root]}}
`

// many is a policy with so many requirements beside those of gateway that they
// are looked up.
func many() string {
	var b strings.Builder
	b.WriteString(gateway)
	for i := range 100 {
		for _, caller := range []string{"web", "only/*"} {
			fmt.Fprintf(&b, "  - {role: strict, callers: [\"spiffe://td.test/%s\"], user: {issuer: \"https://idp.test\", groups: [filler-%d]}}\n", caller, i)
		}
	}
	return b.String()
}

func TestUserRequirements(t *testing.T) {
	const idp = "https://idp.test"
	tests := []struct {
		name   string
		caller string // spiffe://td.test/web if empty
		user   *identity.User
		action policy.Action // PREDICT if NONE
		want   policy.Outcome
		roles  string
	}{
		{name: "no user, a binding of the workload alone", action: policy.Describe, want: policy.Allowed, roles: "plain"},
		{name: "a user leaves the workload's own roles as they are", user: &identity.User{Issuer: "https://other.test"}, action: policy.Describe, want: policy.Allowed, roles: "plain"},
		{name: "no user, bindings for users", want: policy.NotGranted},
		{name: "any user of the issuer", user: &identity.User{Issuer: "https://any.test", Subject: "x"}, want: policy.Allowed, roles: "any"},
		{name: "a user of another issuer", user: &identity.User{Issuer: "https://any.test.evil", Subject: "alice"}, want: policy.NotGranted},
		{name: "the claims of one issuer do not count for another", user: &identity.User{Issuer: "https://any.test", Subject: "alice", Groups: []string{"doctors"}, Scopes: []string{"read", "run"}, AMR: []string{"pwd", "mfa"}, ACR: "gold"}, want: policy.Allowed, roles: "any"},
		{name: "an issuer with a slash more", user: &identity.User{Issuer: idp + "/", Subject: "alice"}, want: policy.NotGranted},
		{name: "no issuer", user: &identity.User{Subject: "alice"}, want: policy.NotGranted},
		{name: "first subject", user: &identity.User{Issuer: idp, Subject: "alice"}, want: policy.Allowed, roles: "named"},
		{name: "second subject", user: &identity.User{Issuer: idp, Subject: "bob"}, want: policy.Allowed, roles: "named"},
		{name: "another subject", user: &identity.User{Issuer: idp, Subject: "ali"}, want: policy.NotGranted},
		{name: "other case of a subject", user: &identity.User{Issuer: idp, Subject: "Alice"}, want: policy.NotGranted},
		{name: "one of the groups", user: &identity.User{Issuer: idp, Groups: []string{"x", "nurses"}}, want: policy.Allowed, roles: "grouped"},
		{name: "none of the groups", user: &identity.User{Issuer: idp, Groups: []string{"x", "nurse"}}, want: policy.NotGranted},
		{name: "all scopes", user: &identity.User{Issuer: idp, Scopes: []string{"run", "x", "read"}}, want: policy.Allowed, roles: "scoped"},
		{name: "one of two scopes", user: &identity.User{Issuer: idp, Scopes: []string{"run", "run"}}, want: policy.NotGranted},
		{name: "all methods", user: &identity.User{Issuer: idp, AMR: []string{"mfa", "pwd"}}, want: policy.Allowed, roles: "mfa"},
		{name: "one of two methods", user: &identity.User{Issuer: idp, AMR: []string{"mfa"}}, want: policy.NotGranted},
		{name: "one of the classes", user: &identity.User{Issuer: idp, ACR: "silver"}, want: policy.Allowed, roles: "classed"},
		{name: "another class", user: &identity.User{Issuer: idp, ACR: "bronze"}, want: policy.NotGranted},
		{name: "a scope is no group", user: &identity.User{Issuer: idp, Scopes: []string{"doctors"}}, want: policy.NotGranted},
		{name: "bindings add up", user: &identity.User{Issuer: idp, Subject: "alice", Groups: []string{"doctors", "nurses"}, Scopes: []string{"read", "run"}, AMR: []string{"pwd", "mfa"}, ACR: "gold"}, want: policy.Allowed, roles: "classed,grouped,mfa,named,scoped"},
		{name: "every field that is set must hold", caller: "only/x", user: &identity.User{Issuer: idp, Subject: "alice", Groups: []string{"doctors"}, Scopes: []string{"run"}, AMR: []string{"mfa"}, ACR: "gold"}, want: policy.Allowed, roles: "strict"},
		{name: "all but the subject", caller: "only/x", user: &identity.User{Issuer: idp, Subject: "bob", Groups: []string{"doctors"}, Scopes: []string{"run"}, AMR: []string{"mfa"}, ACR: "gold"}, want: policy.UserMismatch},
		{name: "all but the group", caller: "only/x", user: &identity.User{Issuer: idp, Subject: "alice", Scopes: []string{"run"}, AMR: []string{"mfa"}, ACR: "gold"}, want: policy.UserMismatch},
		{name: "all but the scope", caller: "only/x", user: &identity.User{Issuer: idp, Subject: "alice", Groups: []string{"doctors"}, AMR: []string{"mfa"}, ACR: "gold"}, want: policy.UserMismatch},
		{name: "all but the method", caller: "only/x", user: &identity.User{Issuer: idp, Subject: "alice", Groups: []string{"doctors"}, Scopes: []string{"run"}, ACR: "gold"}, want: policy.UserMismatch},
		{name: "all but the class", caller: "only/x", user: &identity.User{Issuer: idp, Subject: "alice", Groups: []string{"doctors"}, Scopes: []string{"run"}, AMR: []string{"mfa"}}, want: policy.UserMismatch},
		{name: "another binding of the same role", caller: "only/x", user: &identity.User{Issuer: idp, Subject: "root"}, want: policy.Allowed, roles: "strict"},
		{name: "no user where every binding asks for one", caller: "only/x", want: policy.UserMismatch},
		{name: "a user whose role does not do that", caller: "only/x", user: &identity.User{Issuer: idp, Subject: "root"}, action: policy.PredictStream, want: policy.NotGranted},
		{name: "no user, and no role does that", caller: "only/x", action: policy.PredictStream, want: policy.UserMismatch},
		{name: "a user without the workload", caller: "other", user: &identity.User{Issuer: idp, Subject: "root"}, want: policy.NoRole},
	}
	for _, size := range []struct{ name, yaml string }{{"few", gateway}, {"many", many()}} {
		ix := compile(t, size.yaml)
		for _, tt := range tests {
			t.Run(size.name+"/"+tt.name, func(t *testing.T) {
				caller, action := tt.caller, tt.action
				if caller == "" {
					caller = "web"
				}
				if action == policy.None {
					action = policy.Predict
				}
				r := predict("spiffe://td.test/"+caller, "secret")
				r.Action, r.User = action, tt.user
				for range 2 {
					for name, d := range map[string]policy.Decision{"Decide": ix.Decide(r), "MayEver": ix.MayEver(r)} {
						if d.Outcome != tt.want || d.Allowed != (tt.want == policy.Allowed) || d.Allowed != (d.Detail == "") {
							t.Fatalf("%s: %+v, want %v", name, d, tt.want)
						}
						if d.Allowed && d.Grant.Key != tt.roles {
							t.Errorf("%s: granted by %s, want %s", name, d.Grant.Key, tt.roles)
						}
					}
				}
			})
		}
	}
}

// A role that the workload has by itself is not made to depend on a user by
// another binding, in whatever order and scope they are.
func TestWorkloadAloneWins(t *testing.T) {
	for _, bindings := range []string{
		`[{role: r, callers: ["spiffe://td/a"]}, {role: r, callers: ["spiffe://td/a"], user: {issuer: i}}]`,
		`[{role: r, callers: ["spiffe://td/a"], user: {issuer: i}}, {role: r, callers: ["spiffe://td/*"]}]`,
		`[{role: r, callers: ["spiffe://td/*"], user: {issuer: i}}, {role: r, callers: ["spiffe://td/a"]}]`,
	} {
		d := compile(t, role+"bindings: "+bindings+"\n").Decide(predict("spiffe://td/a", "m"))
		if !d.Allowed || d.Grant.Key != "r" {
			t.Errorf("%s: %+v", bindings, d)
		}
	}
}

func TestCompileRefusesUserRequirements(t *testing.T) {
	bind := func(users ...string) string {
		s := role + "bindings:\n"
		for _, u := range users {
			s += "  - {role: r, callers: [\"spiffe://td/x\"], user: " + u + "}\n"
		}
		return s
	}
	t.Run("the same requirement twice", func(t *testing.T) {
		p, err := policy.Parse([]byte(bind("{issuer: i, groups: [a, b]}", "{issuer: i, groups: [b, a]}")), "policy.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := policy.Compile(p); err == nil || !strings.Contains(err.Error(), "bindings[1].callers[0]") || !strings.Contains(err.Error(), "already by bindings[0].callers[0]") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("others are not the same", func(t *testing.T) {
		compile(t, bind("{issuer: i, groups: [a, b]}", "{issuer: i, groups: ['a\" \"b']}", "{issuer: i, scopes: [a, b]}", "{issuer: j, groups: [a, b]}", "{issuer: i}")+
			"  - {role: r, callers: [\"spiffe://td/x\"]}\n")
	})
	// Parse refuses these too.
	for name, u := range map[string]*configv1.UserRequirement{
		"no issuer":        {Groups: []string{"a"}},
		"an empty subject": {Issuer: "i", Subjects: []string{""}},
		"an empty group":   {Issuer: "i", Groups: []string{"a", ""}},
		"an empty scope":   {Issuer: "i", Scopes: []string{""}},
		"an empty method":  {Issuer: "i", Amr: []string{""}},
		"an empty class":   {Issuer: "i", Acr: []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			p := under("")
			p.Bindings[0].User = u
			if ix, err := policy.Compile(p); err == nil || ix != nil || !strings.Contains(err.Error(), "bindings[0].user: ") {
				t.Errorf("error %v", err)
			}
		})
	}
}
