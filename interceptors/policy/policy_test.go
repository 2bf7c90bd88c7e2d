package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/interceptors/policy"
)

func compile(t testing.TB, yaml string) *policy.Index {
	t.Helper()
	p, err := policy.Parse([]byte(yaml), "policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ix, err := policy.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// clinic has a role for each kind of pattern, so that which roles a grant has
// tells which patterns matched.
const clinic = `
roles:
  - name: exact
    rules: [{actions: [PREDICT], models: [breast-cancer]}]
    limits: {requests_per_second: 1, rows_per_second: 1}
  - name: segment
    rules:
      - {actions: [PREDICT, DESCRIBE], models: ["fraud-*", breast-cancer]}
      - {actions: [PREDICT_STREAM], models: [digits]}
    limits: {requests_per_second: 2, rows_per_second: 2, max_streams: 2}
  - name: domain
    rules:
      - {actions: [DESCRIBE], models: ["*"]}
      - {actions: [PREDICT], models: ["fraud-card*"]}
    limits: {requests_per_second: 3, rows_per_second: 3}
  - name: root
    rules: [{actions: [INTROSPECT]}]
    limits: {requests_per_second: 4, rows_per_second: 4}
  - name: operator
    rules: [{actions: [DESCRIBE, INTROSPECT], models: [digits]}]
    limits: {requests_per_second: 5, rows_per_second: 5}
bindings:
  - {role: exact, callers: ["spiffe://sallyport.test/clinic/triage", "spiffe://sallyport.test/clinic"]}
  - {role: segment, callers: ["spiffe://sallyport.test/clinic/*"]}
  - {role: domain, callers: ["spiffe://wide.test/*"]}
  - {role: segment, callers: ["spiffe://wide.test/deep/*"]}
  - {role: exact, callers: ["spiffe://wide.test/deep/down/here"]}
  - {role: root, callers: ["spiffe://root.test"]}
  - {role: operator, callers: ["spiffe://sallyport.test/ops"]}
blocked:
  - {callers: ["spiffe://sallyport.test/clinic/stolen"], reason: key leaked}
  - {callers: ["spiffe://sallyport.test/clinic/lab/*"], reason: lab closed}
  - {callers: ["spiffe://evil.test/*"], reason: not our friends}
  - {addresses: ["10.1.0.0/16", "10.1.2.0/24", "2001:db8::/32", "fe80::/10"], reason: guest network}
`

func TestDecide(t *testing.T) {
	ix := compile(t, clinic)
	tests := []struct {
		name   string
		caller string
		from   string // 192.0.2.1 if empty
		action policy.Action
		model  string
		want   policy.Outcome
		roles  string // of the grant, joined
	}{
		// Callers.
		{name: "exact and segment add up", caller: "spiffe://sallyport.test/clinic/triage", action: policy.Predict, model: "breast-cancer", want: policy.Allowed, roles: "exact,segment"},
		{name: "segment", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "breast-cancer", want: policy.Allowed, roles: "segment"},
		{name: "deep below a segment", caller: "spiffe://sallyport.test/clinic/ward/7/bed/2", action: policy.Predict, model: "breast-cancer", want: policy.Allowed, roles: "segment"},
		{name: "below an exact ID only the segment counts", caller: "spiffe://sallyport.test/clinic/triage/1", action: policy.Predict, model: "breast-cancer", want: policy.Allowed, roles: "segment"},
		{name: "the segment itself is not below it", caller: "spiffe://sallyport.test/clinic", action: policy.Predict, model: "breast-cancer", want: policy.Allowed, roles: "exact"},
		{name: "longer segment", caller: "spiffe://sallyport.test/clinic-evil/x", action: policy.Predict, model: "breast-cancer", want: policy.NoRole},
		{name: "longer segment at the end", caller: "spiffe://sallyport.test/clinicx", action: policy.Predict, model: "breast-cancer", want: policy.NoRole},
		{name: "shorter segment", caller: "spiffe://sallyport.test/clini/x", action: policy.Predict, model: "breast-cancer", want: policy.NoRole},
		{name: "other case of a segment", caller: "spiffe://sallyport.test/Clinic/ward", action: policy.Predict, model: "breast-cancer", want: policy.NoRole},
		{name: "segment at another depth", caller: "spiffe://sallyport.test/x/clinic/ward", action: policy.Predict, model: "breast-cancer", want: policy.NoRole},
		{name: "same path, other trust domain", caller: "spiffe://sallyport.test.evil/clinic/ward", action: policy.Predict, model: "breast-cancer", want: policy.NoRole},
		{name: "trust domain as a path", caller: "spiffe://evil/sallyport.test/clinic/ward", action: policy.Predict, model: "breast-cancer", want: policy.NoRole},
		{name: "trust domain itself is not a member's binding", caller: "spiffe://sallyport.test", action: policy.Predict, model: "breast-cancer", want: policy.NoRole},
		{name: "whole trust domain", caller: "spiffe://wide.test/a", action: policy.Describe, model: "any", want: policy.Allowed, roles: "domain"},
		{name: "whole trust domain has the ID without a path", caller: "spiffe://wide.test", action: policy.Describe, model: "any", want: policy.Allowed, roles: "domain"},
		{name: "a binding of the bare domain is for it alone", caller: "spiffe://root.test/x", action: policy.Introspect, want: policy.NoRole},
		{name: "three nested bindings add up", caller: "spiffe://wide.test/deep/down/here", action: policy.None, want: policy.Allowed, roles: "domain,exact,segment"},
		{name: "on the way to an exact ID", caller: "spiffe://wide.test/deep/down", action: policy.None, want: policy.Allowed, roles: "domain,segment"},
		{name: "nobody", caller: "", action: policy.None, want: policy.NoRole},

		// Models.
		{name: "prefix", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "fraud-eu", want: policy.Allowed, roles: "segment"},
		{name: "prefix and nothing more", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "fraud-", want: policy.Allowed, roles: "segment"},
		{name: "less than the prefix", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "fraud", want: policy.NotGranted},
		{name: "nested prefixes add up", caller: "spiffe://wide.test/deep/x", action: policy.Predict, model: "fraud-cards", want: policy.Allowed, roles: "domain,segment"},
		{name: "nested prefixes, the wider alone", caller: "spiffe://wide.test/deep/x", action: policy.Predict, model: "fraud-eu", want: policy.Allowed, roles: "segment"},
		{name: "exact is no prefix", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "breast-cancer-2", want: policy.NotGranted},
		{name: "other case of a model", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "Breast-Cancer", want: policy.NotGranted},
		{name: "pattern as a model", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "*", want: policy.NotGranted},
		{name: "no model", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "", want: policy.NotGranted},
		{name: "very long model", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: strings.Repeat("x", 1<<20), want: policy.NotGranted},

		// Actions.
		{name: "unary does not give streams", caller: "spiffe://sallyport.test/clinic/ward", action: policy.PredictStream, model: "breast-cancer", want: policy.NotGranted},
		{name: "streams do not give unary", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Predict, model: "digits", want: policy.NotGranted},
		{name: "stream", caller: "spiffe://sallyport.test/clinic/ward", action: policy.PredictStream, model: "digits", want: policy.Allowed, roles: "segment"},
		{name: "describe by another role than predict", caller: "spiffe://wide.test/a", action: policy.Predict, model: "any", want: policy.NotGranted},
		{name: "introspect without models", caller: "spiffe://root.test", action: policy.Introspect, want: policy.Allowed, roles: "root"},
		{name: "models do not narrow introspect", caller: "spiffe://sallyport.test/ops", action: policy.Introspect, model: "other", want: policy.Allowed, roles: "operator"},
		{name: "introspect not granted", caller: "spiffe://sallyport.test/clinic/ward", action: policy.Introspect, want: policy.NotGranted},
		{name: "no action needs a role", caller: "spiffe://root.test", action: policy.None, want: policy.Allowed, roles: "root"},
		{name: "no action for the unbound", caller: "spiffe://sallyport.test/intern", action: policy.None, want: policy.NoRole},
		{name: "unknown action", caller: "spiffe://sallyport.test/clinic/ward", action: 77, model: "breast-cancer", want: policy.NotGranted},
		{name: "unknown action of the size of a word", caller: "spiffe://sallyport.test/clinic/ward", action: 255, model: "breast-cancer", want: policy.NotGranted},

		// Blocks.
		{name: "blocked wins over roles", caller: "spiffe://sallyport.test/clinic/stolen", action: policy.Predict, model: "breast-cancer", want: policy.CallerBlocked},
		{name: "below a blocked ID is not blocked", caller: "spiffe://sallyport.test/clinic/stolen/x", action: policy.Predict, model: "breast-cancer", want: policy.Allowed, roles: "segment"},
		{name: "blocked segment", caller: "spiffe://sallyport.test/clinic/lab/1/2", action: policy.Predict, model: "breast-cancer", want: policy.CallerBlocked},
		{name: "blocked segment itself is not below it", caller: "spiffe://sallyport.test/clinic/lab", action: policy.Predict, model: "breast-cancer", want: policy.Allowed, roles: "segment"},
		{name: "blocked domain", caller: "spiffe://evil.test/a", action: policy.None, want: policy.CallerBlocked},
		{name: "blocked domain without a path", caller: "spiffe://evil.test", action: policy.None, want: policy.CallerBlocked},
		{name: "blocked range", caller: "spiffe://sallyport.test/clinic/ward", from: "10.1.255.255", action: policy.Predict, model: "breast-cancer", want: policy.AddressBlocked},
		{name: "beside a blocked range", caller: "spiffe://sallyport.test/clinic/ward", from: "10.2.0.0", action: policy.Predict, model: "breast-cancer", want: policy.Allowed, roles: "segment"},
		{name: "blocked IPv4 on an IPv6 socket", caller: "spiffe://sallyport.test/clinic/ward", from: "::ffff:10.1.2.3", action: policy.Predict, model: "breast-cancer", want: policy.AddressBlocked},
		{name: "blocked IPv6", caller: "spiffe://sallyport.test/clinic/ward", from: "2001:db8:1::1", action: policy.Predict, model: "breast-cancer", want: policy.AddressBlocked},
		{name: "blocked IPv6 with a zone", caller: "spiffe://sallyport.test/clinic/ward", from: "fe80::1%eth0", action: policy.Predict, model: "breast-cancer", want: policy.AddressBlocked},
		{name: "unknown address might be a blocked one", caller: "spiffe://sallyport.test/clinic/ward", from: "none", action: policy.Predict, model: "breast-cancer", want: policy.AddressBlocked},
		{name: "blocked caller from a blocked range", caller: "spiffe://evil.test/a", from: "10.1.2.3", action: policy.Predict, model: "m", want: policy.CallerBlocked},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := policy.Request{Address: netip.MustParseAddr("192.0.2.1"), Action: tt.action, Model: tt.model}
			if tt.caller != "" {
				r.Caller = spiffeid.RequireFromString(tt.caller)
			}
			switch tt.from {
			case "":
			case "none":
				r.Address = netip.Addr{}
			default:
				r.Address = netip.MustParseAddr(tt.from)
			}
			for range 2 { // the second time from what the first has kept
				d := ix.Decide(r)
				if d.Outcome != tt.want {
					t.Fatalf("outcome %v, want %v (%s)", d.Outcome, tt.want, d.Detail)
				}
				if d.Allowed != (tt.want == policy.Allowed) || d.Allowed != (d.Grant != nil) || d.Allowed != (d.Detail == "") {
					t.Errorf("the parts of the decision disagree: %+v", d)
				}
				if d.Grant != nil && (d.Grant.Key != tt.roles || strings.Join(d.Grant.Roles, ",") != tt.roles) {
					t.Errorf("grant of %v with key %q, want %s", d.Grant.Roles, d.Grant.Key, tt.roles)
				}
			}
			if d := ix.MayEver(r); tt.want == policy.Allowed && !d.Allowed {
				t.Errorf("MayEver refuses what Decide allows: %+v", d)
			}
			if e := ix.Explain(r); r.Address.IsValid() && e.Outcome != tt.want {
				t.Errorf("Explain says %v, Decide %v", e.Outcome, tt.want)
			}
		})
	}
}

func TestMayEver(t *testing.T) {
	ix := compile(t, clinic)
	home := netip.MustParseAddr("192.0.2.1")
	tests := []struct {
		name   string
		caller string
		from   netip.Addr
		action policy.Action
		want   policy.Outcome
	}{
		{"on some model", "spiffe://sallyport.test/clinic/ward", home, policy.Predict, policy.Allowed},
		{"by the narrow role", "spiffe://wide.test/deep/x", home, policy.PredictStream, policy.Allowed},
		{"by the wide role", "spiffe://wide.test/deep/down/here", home, policy.Describe, policy.Allowed},
		{"on no model", "spiffe://wide.test/a", home, policy.PredictStream, policy.NotGranted},
		{"without a role", "spiffe://sallyport.test/intern", home, policy.Predict, policy.NoRole},
		{"any role for no action", "spiffe://wide.test/a", home, policy.None, policy.Allowed},
		{"blocked", "spiffe://sallyport.test/clinic/stolen", home, policy.Predict, policy.CallerBlocked},
		{"from a blocked range", "spiffe://sallyport.test/clinic/ward", netip.MustParseAddr("10.1.2.3"), policy.Predict, policy.AddressBlocked},
		{"unknown action", "spiffe://sallyport.test/clinic/ward", home, 200, policy.NotGranted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := ix.MayEver(policy.Request{Caller: spiffeid.RequireFromString(tt.caller), Address: tt.from, Action: tt.action})
			if d.Outcome != tt.want || d.Allowed != (tt.want == policy.Allowed) || d.Allowed != (d.Grant != nil) {
				t.Errorf("got %+v, want %v, and a grant if allowed", d, tt.want)
			}
		})
	}
}

func TestDetailNamesTheBlock(t *testing.T) {
	ix := compile(t, clinic)
	caller := spiffeid.RequireFromString("spiffe://sallyport.test/clinic/lab/x")
	d := ix.Decide(policy.Request{Caller: caller, Address: netip.MustParseAddr("192.0.2.1")})
	if want := `blocked[1] spiffe://sallyport.test/clinic/lab/*: lab closed`; d.Detail != want {
		t.Errorf("detail %q, want %q", d.Detail, want)
	}
	caller = spiffeid.RequireFromString("spiffe://sallyport.test/clinic/ward")
	d = ix.Decide(policy.Request{Caller: caller, Address: netip.MustParseAddr("10.1.3.1")})
	if want := `blocked[3] 10.1.0.0/16: guest network`; d.Detail != want {
		t.Errorf("detail %q, want %q", d.Detail, want)
	}
}

func TestLimits(t *testing.T) {
	ix := compile(t, `
roles:
  - name: quick
    rules: [{actions: [PREDICT], models: [a, b]}]
    limits: {requests_per_second: 100, request_burst: 10, rows_per_second: 0.5, max_streams: 3}
  - name: big
    rules: [{actions: [PREDICT], models: [a, c]}]
    limits: {requests_per_second: 1.5, rows_per_second: 1000, row_burst: 5000, max_rows_per_request: 200}
bindings:
  - {role: quick, callers: ["spiffe://td.test/x"]}
  - {role: big, callers: ["spiffe://td.test/*"]}
`)
	tests := []struct {
		name, model string
		want        policy.Grant
	}{
		{"defaults from rates, rounded up", "b", policy.Grant{Roles: []string{"quick"}, Key: "quick", Limits: policy.Limits{
			RequestsPerSecond: 100, RequestBurst: 10, RowsPerSecond: 0.5, RowBurst: 1, MaxRowsPerRequest: 1, MaxStreams: 3,
		}}},
		{"set ones as they are", "c", policy.Grant{Roles: []string{"big"}, Key: "big", Limits: policy.Limits{
			RequestsPerSecond: 1.5, RequestBurst: 2, RowsPerSecond: 1000, RowBurst: 5000, MaxRowsPerRequest: 200, MaxStreams: 4,
		}}},
		{"most generous field by field", "a", policy.Grant{Roles: []string{"big", "quick"}, Key: "big,quick", Limits: policy.Limits{
			RequestsPerSecond: 100, RequestBurst: 10, RowsPerSecond: 1000, RowBurst: 5000, MaxRowsPerRequest: 200, MaxStreams: 3,
		}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := ix.Decide(policy.Request{Caller: spiffeid.RequireFromString("spiffe://td.test/x"), Action: policy.Predict, Model: tt.model})
			if d.Grant == nil {
				t.Fatalf("refused: %+v", d)
			}
			if diff := cmp.Diff(tt.want, *d.Grant); diff != "" {
				t.Errorf("grant (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGrantsAreShared(t *testing.T) {
	ix := compile(t, clinic)
	grant := func(caller, model string) *policy.Grant {
		return ix.Decide(policy.Request{
			Caller: spiffeid.RequireFromString(caller), Address: netip.MustParseAddr("192.0.2.1"), Action: policy.Predict, Model: model,
		}).Grant
	}
	a := grant("spiffe://sallyport.test/clinic/ward", "fraud-eu")
	b := grant("spiffe://wide.test/deep/x", "breast-cancer")
	if a == nil || a != b {
		t.Errorf("the same roles gave two grants: %p and %p", a, b)
	}
}

func TestActionNames(t *testing.T) {
	for _, a := range []policy.Action{policy.None, policy.Predict, policy.PredictStream, policy.Describe, policy.Introspect} {
		if got, err := policy.ParseAction(strings.ToLower(a.String())); got != a || err != nil {
			t.Errorf("ParseAction(%q) = %v, %v", a, got, err)
		}
	}
	if _, err := policy.ParseAction("DELETE"); err == nil {
		t.Error("an unknown action was taken")
	}
	if got := policy.Action(9).String(); got != "Action(9)" {
		t.Errorf("got %q", got)
	}
}
