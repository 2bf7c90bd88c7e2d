package audit_test

import (
	"testing"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

func TestFilter(t *testing.T) {
	denied := call(7)
	denied.Code, denied.Reason = 7, "POLICY_DENIED"
	handshake := &auditv1.Record{Kind: auditv1.Kind_KIND_HANDSHAKE, Code: 16}
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
		{"code", audit.Filter{Code: new(uint32(7))}, denied, true},
		{"only OK", audit.Filter{Code: new(uint32(0))}, denied, false},
		{"reason", audit.Filter{Reason: "POLICY_DENIED"}, denied, true},
		{"another reason", audit.Filter{Reason: "QUOTA_ROWS"}, denied, false},
		{"kind", audit.Filter{Kind: auditv1.Kind_KIND_HANDSHAKE}, handshake, true},
		{"another kind", audit.Filter{Kind: auditv1.Kind_KIND_EVENT}, handshake, false},
		{"call id", audit.Filter{CallID: "call-7"}, denied, true},
		{"another call id", audit.Filter{CallID: "call-8"}, denied, false},
		{"since its time", audit.Filter{Since: epoch}, denied, true},
		{"since later", audit.Filter{Since: epoch.Add(time.Nanosecond)}, denied, false},
		{"until its time", audit.Filter{Until: epoch}, denied, false},
		{"until later", audit.Filter{Until: epoch.Add(time.Nanosecond)}, denied, true},
		{"all but one match", audit.Filter{Model: "breast-cancer", Action: "PREDICT", Reason: "QUOTA_ROWS"}, denied, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.filter.Match(tt.record); got != tt.want {
				t.Errorf("Match is %v, want %v", got, tt.want)
			}
		})
	}
}
