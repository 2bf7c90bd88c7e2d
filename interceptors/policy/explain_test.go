package policy_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

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
