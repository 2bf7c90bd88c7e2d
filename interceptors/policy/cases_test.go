package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/policy"
)

const casesPolicy = `
roles:
  - {name: reader, rules: [{actions: [PREDICT], models: ["m*"]}, {actions: [INTROSPECT]}], LIMITS}
  - {name: writer, rules: [{actions: [PREDICT], models: [mm]}], LIMITS}
bindings:
  - {role: reader, callers: ["spiffe://td/*"]}
  - {role: writer, callers: ["spiffe://td/a"]}
blocked:
  - {addresses: ["10.0.0.0/8"], reason: lab}
  - {callers: ["spiffe://td/stolen"], reason: stolen}
`

func TestCases(t *testing.T) {
	for _, tt := range []struct {
		name, of string
		want     string
	}{
		{"allowed as expected", `{caller: "spiffe://td/b", action: PREDICT, model: mm, expect: ALLOW}`, "passed: allowed; allowed by reader"},
		{"refused as expected", `{caller: "spiffe://td/b", action: DESCRIBE, model: mm, expect: DENY}`, "passed: refused; refused (NOT_GRANTED)"},
		{"allowed unexpectedly", `{caller: "spiffe://td/b", action: PREDICT, model: mm, expect: DENY}`, "FAILED: refused; allowed by reader"},
		{"refused unexpectedly", `{caller: "spiffe://other/b", action: PREDICT, model: mm, expect: ALLOW}`, "FAILED: allowed; refused (NO_ROLE)"},
		{"without a model", `{caller: "spiffe://td/b", action: INTROSPECT, expect: ALLOW}`, "passed: allowed; allowed by reader"},
		{"by exactly these roles, in any order", `{caller: "spiffe://td/a", action: PREDICT, model: mm, expect: ALLOW, roles: [writer, reader]}`, "passed: allowed by reader and writer; allowed by reader and writer"},
		{"by more roles than expected", `{caller: "spiffe://td/a", action: PREDICT, model: mm, expect: ALLOW, roles: [reader]}`, "FAILED: allowed by reader; allowed by reader and writer"},
		{"by fewer roles than expected", `{caller: "spiffe://td/b", action: PREDICT, model: mm, expect: ALLOW, roles: [reader, writer]}`, "FAILED: allowed by reader and writer; allowed by reader"},
		{"blocked addresses left aside", `{caller: "spiffe://td/a", action: PREDICT, model: m, expect: ALLOW}`, "passed: allowed; allowed by reader"},
		{"from a blocked address", `{caller: "spiffe://td/a", address: 10.1.1.1, action: PREDICT, model: m, expect: ALLOW}`, "FAILED: allowed; refused (ADDRESS_BLOCKED)"},
		{"from another", `{caller: "spiffe://td/a", address: "::1", action: PREDICT, model: m, expect: ALLOW}`, "passed: allowed; allowed by reader"},
		{"blocked", `{caller: "spiffe://td/stolen", action: PREDICT, model: m, expect: DENY}`, "passed: refused; refused (CALLER_BLOCKED)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := cases(t, tt.of)
			if c.Policy() != "p.yaml" {
				t.Errorf("policy %q", c.Policy())
			}
			r := c.Run(parsed(t, casesPolicy), time.Now())[0]
			got := "FAILED: "
			if r.Passed {
				got = "passed: "
			}
			if got += r.Expected + "; " + r.Decided; got != tt.want {
				t.Errorf("got %s, want %s\n%v", got, tt.want, r.Explanation)
			}
			if allowed := strings.HasPrefix(r.Decided, "allowed"); r.Name != "c" || r.Explanation.Allowed != allowed {
				t.Errorf("%+v is not the story of %q", r.Explanation, tt.want)
			}
		})
	}
}

// What a case says of user, rows and time reaches the condition, and a case
// without a time is decided at the time of the run.
func TestCasesWithConditions(t *testing.T) {
	ix := parsed(t, `
roles:
  - name: reader
    rules:
      - {actions: [PREDICT], models: [m], when: "rows <= 10 && 'mfa' in user.amr && user.acr == 'high' && 'run' in user.scopes && user.subject == 's'"}
      - {actions: [PREDICT], models: [day], when: "now < timestamp('2030-01-02T00:00:00Z')"}
    LIMITS
bindings:
  - {role: reader, callers: ["spiffe://td/a"], user: {issuer: "https://idp", groups: [staff]}}
  - {role: reader, callers: ["spiffe://td/clock"]}
`)
	const user = `{issuer: "https://idp", subject: s, groups: [staff], scopes: [run], amr: [mfa], acr: high}`
	for _, tt := range []struct {
		name, of string
		allowed  bool
	}{
		{"all of it", `{caller: "spiffe://td/a", action: PREDICT, model: m, rows: 10, expect: ALLOW, user: ` + user + `}`, true},
		{"too many rows", `{caller: "spiffe://td/a", action: PREDICT, model: m, rows: 11, expect: ALLOW, user: ` + user + `}`, false},
		{"no user", `{caller: "spiffe://td/a", action: PREDICT, model: m, expect: ALLOW}`, false},
		{"another issuer", `{caller: "spiffe://td/a", action: PREDICT, model: m, expect: ALLOW, user: ` + strings.Replace(user, "idp", "x", 1) + `}`, false},
		{"another group", `{caller: "spiffe://td/a", action: PREDICT, model: m, expect: ALLOW, user: ` + strings.Replace(user, "staff", "x", 1) + `}`, false},
		{"another subject", `{caller: "spiffe://td/a", action: PREDICT, model: m, expect: ALLOW, user: ` + strings.Replace(user, "subject: s", "subject: x", 1) + `}`, false},
		{"another scope", `{caller: "spiffe://td/a", action: PREDICT, model: m, expect: ALLOW, user: ` + strings.Replace(user, "run", "x", 1) + `}`, false},
		{"another method", `{caller: "spiffe://td/a", action: PREDICT, model: m, expect: ALLOW, user: ` + strings.Replace(user, "mfa", "x", 1) + `}`, false},
		{"another class", `{caller: "spiffe://td/a", action: PREDICT, model: m, expect: ALLOW, user: ` + strings.Replace(user, "high", "x", 1) + `}`, false},
		{"at its time", `{caller: "spiffe://td/clock", action: PREDICT, model: day, time: "2030-01-01T00:00:00Z", expect: ALLOW}`, true},
		{"after its time", `{caller: "spiffe://td/clock", action: PREDICT, model: day, time: "2030-01-03T00:00:00Z", expect: ALLOW}`, false},
		{"now, which is after", `{caller: "spiffe://td/clock", action: PREDICT, model: day, expect: ALLOW}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := cases(t, tt.of).Run(ix, time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC))[0]
			if r.Passed != tt.allowed || r.Explanation.Allowed != tt.allowed {
				t.Errorf("passed %v, allowed %v, want %v\n%v", r.Passed, r.Explanation.Allowed, tt.allowed, r.Explanation)
			}
		})
	}
}

func cases(t *testing.T, of string) *policy.Cases {
	t.Helper()
	c, err := policy.ParseCases([]byte("policy: p.yaml\ncases:\n  - "+strings.Replace(of, "{", "{name: c, ", 1)), "cases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseCasesRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "cases.yaml: empty"},
		{"no case", "policy: p", "at least 1 item"},
		{"an unknown field", "policy: p\ncases: [{nam: x}]", "cases.yaml:2:10 unknown field"},
		{"no expectation", "policy: p\ncases: [{name: x, caller: spiffe://td/a, action: INTROSPECT}]", "cases.yaml:2:"},
		{"two of a name", "policy: p\ncases:\n- &a {name: x, caller: \"spiffe://td/a\", action: INTROSPECT, expect: DENY}\n- {name: x, caller: \"spiffe://td/a\", action: INTROSPECT, expect: DENY}", "two cases have the same name"},
		{
			"all that the schema cannot say",
			"policy: p\ncases:\n" +
				"- {name: one, caller: \"spiffe://TD/a\", action: PREDICT, expect: DENY}\n" +
				"- {name: two, caller: \"spiffe://td/a\", action: INTROSPECT, model: m, expect: DENY, roles: [r]}\n",
			`cases.yaml: cases[0] "one": caller: trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores
model: PREDICT is about a model
cases.yaml: cases[1] "two": model: INTROSPECT is not about a model
roles: no role allows what is expected to be refused`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policy.ParseCases([]byte(tt.text), "cases.yaml")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}
