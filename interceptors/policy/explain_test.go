package policy_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

func TestExplain(t *testing.T) {
	ix := compile(t, clinic)
	tests := []struct {
		name string
		r    policy.Request
		want string
	}{
		{
			name: "allowed by two roles",
			r: policy.Request{
				Caller: spiffeid.RequireFromString("spiffe://sallyport.test/clinic/triage"), Address: netip.MustParseAddr("192.0.2.1"),
				Action: policy.Predict, Model: "breast-cancer",
			},
			want: `
ALLOWED: PREDICT on breast-cancer for spiffe://sallyport.test/clinic/triage from 192.0.2.1
blocked: no entry matches
bindings[0]: spiffe://sallyport.test/clinic/triage gives role exact
bindings[1]: spiffe://sallyport.test/clinic/* gives role segment
  yes role exact rules[0] allows PREDICT on "breast-cancer"
  yes role segment rules[0] allows PREDICT on "breast-cancer"
  no  role segment rules[1] allows PREDICT_STREAM, not PREDICT
limits of exact and segment:
  requests  2 a second, 2 at once
  rows      2 a second, 2 at once, 2 a request
  streams   2 open`,
		},
		{
			name: "not granted, a role is not bound",
			r: policy.Request{
				Caller: spiffeid.RequireFromString("spiffe://sallyport.test/ops"), Address: netip.MustParseAddr("192.0.2.1"),
				Action: policy.Predict, Model: "breast-cancer",
			},
			want: `
NOT_GRANTED: PREDICT on breast-cancer for spiffe://sallyport.test/ops from 192.0.2.1
  no role of the caller allows the action on any model
blocked: no entry matches
bindings[6]: spiffe://sallyport.test/ops gives role operator
  no  role operator rules[0] allows DESCRIBE, INTROSPECT, not PREDICT
note: role "exact" allows PREDICT on "breast-cancer" but is not bound to this caller
note: role "segment" allows PREDICT on "breast-cancer" but is not bound to this caller`,
		},
		{
			name: "no role, and a mistyped model",
			r: policy.Request{
				Caller: spiffeid.RequireFromString("spiffe://sallyport.test/clinics/triage"), Address: netip.MustParseAddr("192.0.2.1"),
				Action: policy.Predict, Model: "brest-cancer",
			},
			want: `
NO_ROLE: PREDICT on brest-cancer for spiffe://sallyport.test/clinics/triage from 192.0.2.1
  no binding matches the caller
blocked: no entry matches
bindings: none matches the caller
note: the nearest binding is bindings[0], to "spiffe://sallyport.test/clinic/triage", which does not match this caller
note: no role allows PREDICT on "brest-cancer"
note: the nearest model on which a role allows PREDICT is "breast-cancer"`,
		},
		{
			name: "blocked twice over",
			r: policy.Request{
				Caller: spiffeid.RequireFromString("spiffe://sallyport.test/clinic/stolen"), Address: netip.MustParseAddr("::ffff:10.1.2.3"),
				Action: policy.None,
			},
			want: `
CALLER_BLOCKED: NONE for spiffe://sallyport.test/clinic/stolen from ::ffff:10.1.2.3
  blocked[0] spiffe://sallyport.test/clinic/stolen: key leaked
blocked[0]: spiffe://sallyport.test/clinic/stolen matches (key leaked)
blocked[3]: 10.1.0.0/16 matches (guest network)
blocked[3]: 10.1.2.0/24 matches (guest network)
bindings[1]: spiffe://sallyport.test/clinic/* gives role segment
  yes role segment rules[0] every role allows it
  yes role segment rules[1] every role allows it`,
		},
		{
			name: "without an address, on a model the role does not name",
			r:    policy.Request{Caller: spiffeid.RequireFromString("spiffe://sallyport.test/clinic/ward"), Action: policy.PredictStream, Model: "fraud-eu"},
			want: `
NOT_GRANTED: PREDICT_STREAM on fraud-eu for spiffe://sallyport.test/clinic/ward
  no role of the caller allows the action on the model
blocked: no entry matches
blocked addresses were left aside: no address given
bindings[1]: spiffe://sallyport.test/clinic/* gives role segment
  no  role segment rules[0] allows PREDICT, DESCRIBE, not PREDICT_STREAM
  no  role segment rules[1] allows PREDICT_STREAM on "digits", not on "fraud-eu"
note: no role allows PREDICT_STREAM on "fraud-eu"`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ix.Explain(tt.r).String()
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), got); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
		})
	}
}

// ward has user requirements and conditions.
const ward = `
roles:
  - name: reader
    rules:
      - {actions: [PREDICT], models: ["m"], when: "rows <= 100 || 'mfa' in user.amr"}
      - {actions: [PREDICT], models: ["m"], when: "user.groups[3] == 'x'"}
      - {actions: [DESCRIBE], models: ["*"], when: "rows == 0"}
    limits: {requests_per_second: 1, rows_per_second: 1}
  - name: doctor
    rules: [{actions: [PREDICT], models: ["m", "secret"]}]
    limits: {requests_per_second: 2, rows_per_second: 2}
bindings:
  - {role: reader, callers: ["spiffe://td.test/*"]}
  - {role: doctor, callers: ["spiffe://td.test/*"], user: {issuer: "https://idp.test", groups: [doctors, nurses], amr: [mfa]}}
  - {role: doctor, callers: ["spiffe://lone.test"], user: {issuer: "https://idp.test"}}
`

func TestExplainUsersAndConditions(t *testing.T) {
	ix := compile(t, ward)
	user := &identity.User{Issuer: "https://idp.test", Subject: "alice", Groups: []string{"nurses"}, AMR: []string{"pwd"}}
	tests := []struct {
		name string
		r    policy.Request
		want string
	}{
		{
			name: "a condition is false, another fails, a binding asks for more of the user",
			r:    policy.Request{Caller: spiffeid.RequireFromString("spiffe://td.test/x"), User: user, Action: policy.Predict, Model: "m", Rows: 200},
			want: `
CONDITION_FAILED: PREDICT on m for spiffe://td.test/x on behalf of "alice" of "https://idp.test"
  role reader rules[1].when: index out of bounds: 3
blocked: no entry matches
blocked addresses were left aside: no address given
bindings[0]: spiffe://td.test/* gives role reader
bindings[1]: spiffe://td.test/* does not give role doctor: the user has not authenticated by all of amr; it asks for a user of issuer "https://idp.test", groups any of "doctors", "nurses", amr all of "mfa"
  no  role reader rules[0] allows PREDICT on "m"
      when rows <= 100 || 'mfa' in user.amr is false
  no  role reader rules[1] allows PREDICT on "m"
      when user.groups[3] == 'x' is error: index out of bounds: 3
  no  role reader rules[2] allows DESCRIBE, not PREDICT
      when rows == 0
note: role "doctor" allows PREDICT on "m", and bindings[1] gives it to this caller for a user of issuer "https://idp.test", groups any of "doctors", "nurses", amr all of "mfa": the user has not authenticated by all of amr
note: role "reader" rules[0] would allow PREDICT on "m" if its condition were true
note: role "reader" rules[1] would allow PREDICT on "m" if its condition were true`,
		},
		{
			name: "a condition is true",
			r:    policy.Request{Caller: spiffeid.RequireFromString("spiffe://td.test/x"), Action: policy.Predict, Model: "m", Rows: 10},
			want: `
ALLOWED: PREDICT on m for spiffe://td.test/x
blocked: no entry matches
blocked addresses were left aside: no address given
bindings[0]: spiffe://td.test/* gives role reader
bindings[1]: spiffe://td.test/* does not give role doctor: the call has no user; it asks for a user of issuer "https://idp.test", groups any of "doctors", "nurses", amr all of "mfa"
  yes role reader rules[0] allows PREDICT on "m"
      when rows <= 100 || 'mfa' in user.amr is true
  no  role reader rules[1] allows PREDICT on "m"
      when user.groups[3] == 'x' is error: the call has no user
  no  role reader rules[2] allows DESCRIBE, not PREDICT
      when rows == 0
limits of reader:
  requests  1 a second, 1 at once
  rows      1 a second, 1 at once, 1 a request
  streams   4 open`,
		},
		{
			name: "every binding asks for a user",
			r:    policy.Request{Caller: spiffeid.RequireFromString("spiffe://lone.test"), Action: policy.Predict, Model: "secret"},
			want: `
USER_MISMATCH: PREDICT on secret for spiffe://lone.test
  bindings match the caller, and all ask for another user than the call's
blocked: no entry matches
blocked addresses were left aside: no address given
bindings[2]: spiffe://lone.test does not give role doctor: the call has no user; it asks for a user of issuer "https://idp.test"
note: role "doctor" allows PREDICT on "secret", and bindings[2] gives it to this caller for a user of issuer "https://idp.test": the call has no user`,
		},
		{
			name: "the binding holds for the user",
			r:    policy.Request{Caller: spiffeid.RequireFromString("spiffe://lone.test"), User: user, Action: policy.Predict, Model: "secret"},
			want: `
ALLOWED: PREDICT on secret for spiffe://lone.test on behalf of "alice" of "https://idp.test"
blocked: no entry matches
blocked addresses were left aside: no address given
bindings[2]: spiffe://lone.test gives role doctor to a user of issuer "https://idp.test"
  yes role doctor rules[0] allows PREDICT on "secret"
limits of doctor:
  requests  2 a second, 2 at once
  rows      2 a second, 2 at once, 2 a request
  streams   4 open`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ix.Explain(tt.r).String()
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), got); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
		})
	}
}

// What a user's token says must not draw on the operator's terminal.
func TestExplanationIsPrintable(t *testing.T) {
	ix := index(t, under("{'a': true}[user.acr]"))
	r := call()
	r.User.ACR, r.User.Subject = "\x1b[2J\nALLOWED", "\x1b[2J\nALLOWED"
	if got := ix.Explain(r).String(); strings.ContainsAny(got, "\x1b\r") || strings.Contains(got, "\nALLOWED") {
		t.Errorf("%q", got)
	}
}

func TestExplainAsJSON(t *testing.T) {
	ix := compile(t, clinic)
	e := ix.Explain(policy.Request{Caller: spiffeid.RequireFromString("spiffe://root.test"), Action: policy.Introspect})
	got, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"caller":"spiffe://root.test","action":"INTROSPECT","allowed":true,"outcome":"ALLOWED",` +
		`"bindings":[{"index":5,"role":"root","pattern":"spiffe://root.test"}],` +
		`"rules":[{"role":"root","index":0,"matched":true,"why":"allows INTROSPECT"}],` +
		`"grant":{"roles":["root"],"limits":{"requests_per_second":4,"request_burst":4,"rows_per_second":4,"row_burst":4,"max_rows_per_request":4,"max_streams":4},"key":"root"}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestExplainConditionsAsJSON(t *testing.T) {
	e := compile(t, ward).Explain(policy.Request{
		Caller: spiffeid.RequireFromString("spiffe://td.test/x"), User: &identity.User{Issuer: "i", Subject: "s"}, Action: policy.Predict, Model: "m", Rows: 7,
	})
	got, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"user":{"issuer":"i","subject":"s"},"rows":7`,
		`{"index":0,"role":"reader","pattern":"spiffe://td.test/*"}`,
		`"user":"issuer \"https://idp.test\", groups any of \"doctors\", \"nurses\", amr all of \"mfa\"","unmet":"the user's issuer is \"i\""`,
		`{"role":"reader","index":0,"matched":true,"why":"allows PREDICT on \"m\"","when":"rows \u003c= 100 || 'mfa' in user.amr","value":"true"}`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
}
