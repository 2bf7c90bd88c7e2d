package audit

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// Filter selects records. The zero value of a field selects all; the fields
// that are set all have to match, and a list matches if one of its values does.
type Filter struct {
	// Caller is a SPIFFE ID, or with "/*" at its end all that lie below it: proved,
	// or claimed in a handshake that was refused.
	Caller string
	// Serial is the serial number of the caller's X.509-SVID, hexadecimal.
	Serial string
	// Peer selects by the peer's address: all that lie in the prefix, on any port.
	Peer netip.Prefix
	// User is the subject of the user on whose behalf a call was made, and
	// UserIssuer the issuer of the user's token.
	User, UserIssuer string
	// Role is a role that allowed the call, or would have had to.
	Role string
	// Model is a model's name, or with "*" at its end a prefix of names.
	Model string
	// Action is a policy action, for example "PREDICT".
	Action string
	// Codes are canonical gRPC status codes, 0 those that were OK. They select only
	// what has a code: calls and handshakes.
	Codes []uint32
	// Reasons are reasons of refusals, for example "POLICY_DENIED": of the call, or
	// of a batch of its stream.
	Reasons []string
	// Kinds are what the record is about.
	Kinds []auditv1.Kind
	// CallID is the call's id.
	CallID string
	// Since and Until bound the record's time; Until is excluded.
	Since, Until time.Time
}

// Match tells whether the filter selects r. It may be called concurrently.
func (f *Filter) Match(r *auditv1.Record) bool {
	at := r.GetTime().AsTime()
	return (f.CallID == "" || f.CallID == r.GetCallId()) &&
		(len(f.Kinds) == 0 || slices.Contains(f.Kinds, r.GetKind())) &&
		(len(f.Codes) == 0 || hasCode(r) && slices.Contains(f.Codes, r.GetCode())) &&
		(f.Action == "" || f.Action == r.GetAction()) &&
		(len(f.Reasons) == 0 || slices.ContainsFunc(f.Reasons, func(reason string) bool {
			return reason == r.GetReason() || r.GetRefused()[reason] > 0
		})) &&
		matches(f.Model, "*", r.GetModel()) &&
		(matches(f.Caller, "/*", r.GetCaller().GetSpiffeId()) || r.GetClaimedId() != "" && matches(f.Caller, "/*", r.GetClaimedId())) &&
		(f.Serial == "" || strings.EqualFold(f.Serial, r.GetCaller().GetSvidSerial())) &&
		(f.User == "" || f.User == r.GetUser().GetSubject()) &&
		(f.UserIssuer == "" || f.UserIssuer == r.GetUser().GetIssuer()) &&
		(f.Role == "" || slices.Contains(r.GetRoles(), f.Role)) &&
		(!f.Peer.IsValid() || liesIn(f.Peer, r.GetPeerAddress())) &&
		(f.Since.IsZero() || !at.Before(f.Since)) &&
		(f.Until.IsZero() || at.Before(f.Until))
}

// hasCode tells whether r is about something that was answered with a code; in
// all other records the code is not set, which reads as OK.
func hasCode(r *auditv1.Record) bool {
	return r.GetKind() == auditv1.Kind_KIND_CALL || r.GetKind() == auditv1.Kind_KIND_HANDSHAKE
}

// liesIn tells whether address, a host and a port, lies in prefix.
func liesIn(prefix netip.Prefix, address string) bool {
	peer, err := netip.ParseAddrPort(address)
	return err == nil && prefix.Contains(peer.Addr().Unmap().WithZone(""))
}

// matches tells whether s is selected by pattern, which is a prefix if it ends
// with wildcard.
func matches(pattern, wildcard, s string) bool {
	if pattern == "" || pattern == s {
		return true
	}
	return strings.HasSuffix(pattern, wildcard) && strings.HasPrefix(s, strings.TrimSuffix(pattern, "*"))
}
