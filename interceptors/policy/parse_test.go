package policy_test

import (
	"strings"
	"testing"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/policy"
)

const role = `
roles:
  - name: r
    rules: [{actions: [PREDICT], models: [m]}]
    limits: {requests_per_second: 1, rows_per_second: 1}
`

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		name, yaml string
		want       []string // all in the error
	}{
		{"an empty file", "", []string{"policy.yaml", "empty"}},
		{"comments only", "# roles: []\n", []string{"empty"}},
		{"null", "null\n", []string{"empty"}},
		{"no roles", "bindings: []\n", []string{"policy.yaml", "no roles"}},
		{"an unknown field", role + "allow_all: true\n", []string{"policy.yaml:6", "allow_all"}},
		{"a field in a wrong place", role + "    models: [x]\n", []string{"policy.yaml:6", "models"}},
		{"an unknown action", strings.Replace(role, "PREDICT", "PREDICTS", 1), []string{"policy.yaml:4", "PREDICTS"}},
		{"an action twice", strings.Replace(role, "PREDICT", "PREDICT, PREDICT", 1), []string{"policy.yaml:4", "unique"}},
		{"the action that is none", strings.Replace(role, "PREDICT", "ACTION_UNSPECIFIED", 1), []string{"policy.yaml:4"}},
		{"no limits", strings.Replace(role, "limits:", "#", 1), []string{"policy.yaml:3", "limits"}},
		{"a negative rate", strings.Replace(role, "requests_per_second: 1", "requests_per_second: -1", 1), []string{"policy.yaml:5", "requests_per_second"}},
		{"a rate that is no number", strings.Replace(role, "requests_per_second: 1", "requests_per_second: .nan", 1), []string{"policy.yaml:5"}},
		{"a star inside a model", strings.Replace(role, "[m]", `["a*b"]`, 1), []string{"policy.yaml:4", "models"}},
		{"streams without a limit", strings.Replace(role, "PREDICT", "PREDICT_STREAM", 1), []string{"policy.yaml", "max_streams"}},
		{"a role twice", role + strings.TrimPrefix(role, "\nroles:\n"), []string{"policy.yaml", "same name"}},
		{"a block without a reason", role + "blocked: [{addresses: [10.0.0.0/8]}]\n", []string{"policy.yaml:6", "reason"}},
		{"two faults", role + "blocked: [{addresses: [10.0.0.0/8]}]\nbindings: [{role: r}]\n", []string{"reason", "callers"}},
		{"a second document, which YAML readers pass over", role + "---\nblocked: [{callers: [\"spiffe://td/x\"], reason: x}]\n", []string{"more than one document"}},
		{"a key twice", "blocked: [{callers: [\"spiffe://td/x\"], reason: x}]" + role + "blocked: []\n", []string{"blocked", "comes twice"}},
		{"an anchor", role + "bindings: &b []\nblocked: *b\n", []string{"alias"}},
		{"line breaks that the YAML library miscounts", "x: 1\ry: 2\r", []string{"policy.yaml", "line break"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := policy.Parse([]byte(tt.yaml), "policy.yaml")
			if err == nil || p != nil {
				t.Fatalf("parsed: %v", p)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in the error:\n%v", want, err)
				}
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	caller := func(c string) string { return role + "bindings: [{role: r, callers: [\"" + c + "\"]}]\n" }
	blocked := func(a string) string { return role + "blocked: [{addresses: [\"" + a + "\"], reason: x}]\n" }
	tests := []struct {
		name, yaml string
		want       []string
	}{
		{"an unknown role", role + "bindings: [{role: R, callers: [\"spiffe://td/x\"]}]\n", []string{"bindings[0]", `no role "R"`}},
		{"a caller bound twice", role + "bindings: [{role: r, callers: [\"spiffe://td/x\"]}, {role: r, callers: [\"spiffe://td/y\", \"spiffe://td/x\"]}]\n", []string{"bindings[1].callers[1]", "already by bindings[0].callers[0]"}},
		{"upper case in a trust domain", caller("spiffe://TD/x"), []string{"bindings[0].callers[0]", "trust domain"}},
		{"no trust domain", caller("spiffe:///x"), []string{"bindings[0].callers[0]"}},
		{"every trust domain", caller("spiffe://*"), []string{"bindings[0].callers[0]"}},
		{"every trust domain with a path", caller("spiffe://*/x"), []string{"last segment"}},
		{"part of a segment", caller("spiffe://td/clinic*"), []string{"last segment"}},
		{"a star in the middle", caller("spiffe://td/*/x"), []string{"last segment"}},
		{"two stars", caller("spiffe://td/*/*"), []string{"last segment"}},
		{"a trailing slash", caller("spiffe://td/x/"), []string{"trailing slash"}},
		{"an empty segment", caller("spiffe://td//*"), []string{"bindings[0].callers[0]"}},
		{"a dot segment", caller("spiffe://td/a/../*"), []string{"dot"}},
		{"a percent-encoded segment", caller("spiffe://td/%2e%2e/x"), []string{"bindings[0].callers[0]"}},
		{"a query", caller("spiffe://td/x?y"), []string{"bindings[0].callers[0]"}},
		{"a port", caller("spiffe://td:443/x"), []string{"bindings[0].callers[0]"}},
		{"a blocked caller that is no ID", role + "blocked: [{callers: [\"spiffe://TD\"], reason: x}]\n", []string{"blocked[0].callers[0]"}},
		{"IPv4 in IPv6", blocked("::ffff:10.0.0.0/104"), []string{"blocked[0].addresses[0]", "IPv4"}},
		{"more rows than the burst", strings.Replace(role, "rows_per_second: 1", "rows_per_second: 1, max_rows_per_request: 2", 1), []string{"roles[0].limits", "row_burst"}},
		{"two faults", role + "bindings: [{role: a, callers: [\"spiffe://TD\"]}]\n", []string{`no role "a"`, "trust domain"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := policy.Parse([]byte(tt.yaml), "policy.yaml")
			if err != nil {
				t.Fatal(err)
			}
			ix, err := policy.Compile(p)
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
}

// A policy that Parse has not seen must not open a door.
func TestCompileRefusesWhatParseWould(t *testing.T) {
	limits := &configv1.Limits{RequestsPerSecond: 1, RowsPerSecond: 1}
	rule := func(a configv1.Action, model string) *configv1.Policy {
		return &configv1.Policy{Roles: []*configv1.Role{{Name: "r", Limits: limits, Rules: []*configv1.Rule{
			{Actions: []configv1.Action{a}, Models: []string{model}},
		}}}}
	}
	tests := []struct {
		name string
		p    *configv1.Policy
		want string
	}{
		{"a role without a name", &configv1.Policy{Roles: []*configv1.Role{{Limits: limits}}}, "no name"},
		{"two roles of a name", &configv1.Policy{Roles: []*configv1.Role{{Name: "r", Limits: limits}, {Name: "r", Limits: limits}}}, "roles[1]"},
		{"the action that is none", rule(configv1.Action_ACTION_UNSPECIFIED, "m"), "unknown action 0"},
		{"an action beyond the last", rule(99, "m"), "unknown action 99"},
		{"an action that a byte would cut to a known one", rule(257, "m"), "unknown action 257"},
		{"a star inside a model", rule(configv1.Action_PREDICT, "a*b"), "last character"},
		{"an empty model", rule(configv1.Action_PREDICT, ""), "empty"},
		{"an empty block", &configv1.Policy{Blocked: []*configv1.Block{{Reason: "x"}}}, "neither"},
		{"a range that is none", &configv1.Policy{Blocked: []*configv1.Block{{Reason: "x", Addresses: []string{"10.0.0.1"}}}}, "CIDR"},
		{"a range with bits beyond its length", &configv1.Policy{Blocked: []*configv1.Block{{Reason: "x", Addresses: []string{"10.1.2.3/16"}}}}, "10.1.0.0/16"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := policy.Compile(tt.p); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(clinic))
	f.Add([]byte(role))
	f.Add([]byte("x: 1\ry: 2\r"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse(data, "policy.yaml")
		if (err == nil) != (p != nil) {
			t.Fatalf("policy %v with error %v", p, err)
		}
		if err != nil {
			return
		}
		ix, err := policy.Compile(p)
		if (err == nil) != (ix != nil) {
			t.Fatalf("index %v with error %v", ix, err)
		}
	})
}
