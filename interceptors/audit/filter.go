package audit

import (
	"strings"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// Filter selects records. The zero value of a field selects all; the fields
// that are set all have to match.
type Filter struct {
	// Caller is a SPIFFE ID, or with "/*" at its end all that lie below it: proved,
	// or claimed in a handshake that was refused.
	Caller string
	// User is the subject of the user on whose behalf a call was made.
	User string
	// Model is a model's name, or with "*" at its end a prefix of names.
	Model string
	// Action is a policy action, for example "PREDICT".
	Action string
	// Code is a canonical gRPC status code; nil selects all, 0 those that were OK.
	Code *uint32
	// Reason is the reason of a refusal, for example "POLICY_DENIED": of the call,
	// or of a batch of its stream.
	Reason string
	// Kind is what the record is about.
	Kind auditv1.Kind
	// CallID is the call's id.
	CallID string
	// Since and Until bound the record's time; Until is excluded.
	Since, Until time.Time
}

// Match tells whether the filter selects r. It may be called concurrently.
func (f *Filter) Match(r *auditv1.Record) bool {
	at := r.GetTime().AsTime()
	return (f.CallID == "" || f.CallID == r.GetCallId()) &&
		(f.Kind == auditv1.Kind_KIND_UNSPECIFIED || f.Kind == r.GetKind()) &&
		(f.Code == nil || *f.Code == r.GetCode()) &&
		(f.Action == "" || f.Action == r.GetAction()) &&
		(f.Reason == "" || f.Reason == r.GetReason() || r.GetRefused()[f.Reason] > 0) &&
		matches(f.Model, "*", r.GetModel()) &&
		(matches(f.Caller, "/*", r.GetCaller().GetSpiffeId()) || r.GetClaimedId() != "" && matches(f.Caller, "/*", r.GetClaimedId())) &&
		(f.User == "" || f.User == r.GetUser().GetSubject()) &&
		(f.Since.IsZero() || !at.Before(f.Since)) &&
		(f.Until.IsZero() || at.Before(f.Until))
}

// matches tells whether s is selected by pattern, which is a prefix if it ends
// with wildcard.
func matches(pattern, wildcard, s string) bool {
	if pattern == "" || pattern == s {
		return true
	}
	return strings.HasSuffix(pattern, wildcard) && strings.HasPrefix(s, strings.TrimSuffix(pattern, "*"))
}
