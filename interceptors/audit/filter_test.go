package audit_test

import (
	"net/netip"
	"testing"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

func TestFilter(t *testing.T) {
	denied := call(7)
	denied.Code, denied.Reason = 7, "POLICY_DENIED"
	handshake := &auditv1.Record{Kind: auditv1.Kind_KIND_HANDSHAKE, Code: 16}
	user := &auditv1.Record{User: &auditv1.User{Issuer: "https://idp.test", Subject: "alice"}}
	tests := []struct {
		name   string
		filter audit.Filter
		record *auditv1.Record
		want   bool
	}{
		{"nothing asked for", audit.Filter{}, denied, true},
		{"nothing asked for, hardly anything there", audit.Filter{}, handshake, true},
		{"caller", audit.Filter{Caller: "spiffe://sallyport.test/clinic/ward"}, denied, true},
		{"another caller", audit.Filter{Caller: "spiffe://sallyport.test/clinic"}, denied, false},
		{"callers below a path", audit.Filter{Caller: "spiffe://sallyport.test/clinic/*"}, denied, true},
		{"callers of a trust domain", audit.Filter{Caller: "spiffe://sallyport.test/*"}, denied, true},
		{"callers below another path", audit.Filter{Caller: "spiffe://sallyport.test/cli/*"}, denied, false},
		{"not a whole path segment", audit.Filter{Caller: "spiffe://sallyport.test/clin*"}, denied, false},
		{"caller where none was proved", audit.Filter{Caller: "spiffe://sallyport.test/*"}, handshake, false},
		{"caller as claimed in a handshake", audit.Filter{Caller: "spiffe://sallyport.test/clinic/*"}, &auditv1.Record{ClaimedId: "spiffe://sallyport.test/clinic/stolen"}, true},
		{"another caller than was claimed", audit.Filter{Caller: "spiffe://sallyport.test/ward/*"}, &auditv1.Record{ClaimedId: "spiffe://sallyport.test/clinic/stolen"}, false},
		{"user", audit.Filter{User: "alice"}, &auditv1.Record{User: &auditv1.User{Subject: "alice"}}, true},
		{"another user", audit.Filter{User: "alice"}, &auditv1.Record{User: &auditv1.User{Subject: "alice2"}}, false},
		{"user where there was none", audit.Filter{User: "alice"}, denied, false},
		{"model", audit.Filter{Model: "breast-cancer"}, denied, true},
		{"models with a prefix", audit.Filter{Model: "breast-*"}, denied, true},
		{"another model", audit.Filter{Model: "breast"}, denied, false},
		{"action", audit.Filter{Action: "PREDICT"}, denied, true},
		{"another action", audit.Filter{Action: "DESCRIBE"}, denied, false},
		{"code", audit.Filter{Codes: []uint32{7}}, denied, true},
		{"only OK", audit.Filter{Codes: []uint32{0}}, denied, false},
		{"reason", audit.Filter{Reasons: []string{"POLICY_DENIED"}}, denied, true},
		{"another reason", audit.Filter{Reasons: []string{"QUOTA_ROWS"}}, denied, false},
		{"kind", audit.Filter{Kinds: []auditv1.Kind{auditv1.Kind_KIND_HANDSHAKE}}, handshake, true},
		{"another kind", audit.Filter{Kinds: []auditv1.Kind{auditv1.Kind_KIND_EVENT}}, handshake, false},
		{"one of several codes", audit.Filter{Codes: []uint32{16, 7}}, denied, true},
		{"OK where there is no code", audit.Filter{Codes: []uint32{0}}, &auditv1.Record{Kind: auditv1.Kind_KIND_EVENT}, false},
		{"one of several reasons", audit.Filter{Reasons: []string{"QUOTA_ROWS", "POLICY_DENIED"}}, denied, true},
		{"reason of a batch", audit.Filter{Reasons: []string{"QUOTA_ROWS"}}, &auditv1.Record{Refused: map[string]uint64{"QUOTA_ROWS": 1}}, true},
		{"one of several kinds", audit.Filter{Kinds: []auditv1.Kind{auditv1.Kind_KIND_EVENT, auditv1.Kind_KIND_HANDSHAKE}}, handshake, true},
		{"role", audit.Filter{Role: "reader"}, &auditv1.Record{Roles: []string{"admin", "reader"}}, true},
		{"another role", audit.Filter{Role: "read"}, &auditv1.Record{Roles: []string{"admin", "reader"}}, false},
		{"issuer of the user", audit.Filter{UserIssuer: "https://idp.test"}, user, true},
		{"another issuer", audit.Filter{UserIssuer: "https://idp.tes"}, user, false},
		{"user of another issuer", audit.Filter{User: "alice", UserIssuer: "https://other.test"}, user, false},
		{"serial", audit.Filter{Serial: "0ABC"}, &auditv1.Record{Caller: &auditv1.Caller{SvidSerial: "0abc"}}, true},
		{"another serial", audit.Filter{Serial: "abc"}, &auditv1.Record{Caller: &auditv1.Caller{SvidSerial: "abcd"}}, false},
		{"peer on any port", audit.Filter{Peer: netip.MustParsePrefix("192.0.2.1/32")}, &auditv1.Record{PeerAddress: "192.0.2.1:5000"}, true},
		{"peer in a network", audit.Filter{Peer: netip.MustParsePrefix("192.0.2.0/24")}, &auditv1.Record{PeerAddress: "[::ffff:192.0.2.77]:5000"}, true},
		{"peer with a zone", audit.Filter{Peer: netip.MustParsePrefix("fe80::1/128")}, &auditv1.Record{PeerAddress: "[fe80::1%eth0]:5000"}, true},
		{"another peer", audit.Filter{Peer: netip.MustParsePrefix("192.0.2.1/32")}, &auditv1.Record{PeerAddress: "192.0.2.11:5000"}, false},
		{"peer that is no address", audit.Filter{Peer: netip.MustParsePrefix("0.0.0.0/0")}, &auditv1.Record{PeerAddress: "bufconn"}, false},
		{"call id", audit.Filter{CallID: "call-7"}, denied, true},
		{"another call id", audit.Filter{CallID: "call-8"}, denied, false},
		{"since its time", audit.Filter{Since: epoch}, denied, true},
		{"since later", audit.Filter{Since: epoch.Add(time.Nanosecond)}, denied, false},
		{"until its time", audit.Filter{Until: epoch}, denied, false},
		{"until later", audit.Filter{Until: epoch.Add(time.Nanosecond)}, denied, true},
		{"all but one match", audit.Filter{Model: "breast-cancer", Action: "PREDICT", Reasons: []string{"QUOTA_ROWS"}}, denied, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.filter.Match(tt.record); got != tt.want {
				t.Errorf("Match is %v, want %v", got, tt.want)
			}
		})
	}
}
