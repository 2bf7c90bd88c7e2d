package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// answerText is what the caller was told: "PERMISSION_DENIED (POLICY_DENIED)".
func answerText(r *auditv1.Record) string {
	text := codeName(codes.Code(r.GetCode()))
	if r.GetReason() != "" {
		text += " (" + printable(r.GetReason()) + ")"
	}
	return text
}

// String is the story for people, with a line break at its end.
func (s callStory) String() string {
	r := s.record
	var b strings.Builder
	fmt.Fprintf(&b, "call %s: %s\n", printable(r.GetCallId()), answerText(r))
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-8s  %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("when", "%s, took %s; record %d", stamp(r.GetTime()), r.GetDuration().AsDuration().Round(time.Microsecond), r.GetSequence())
	line("caller", "%s", callerText(r))
	line("user", "%s", userText(r))
	line("from", "%s", cmp.Or(r.GetPeerAddress(), "an address that is not known"))
	line("what", "%s", whatText(r))
	line("amount", "%s", amountText(r))
	line("decision", "%s", decisionText(r))
	line("roles", "%s", cmp.Or(strings.Join(r.GetRoles(), ", "), "none allowed it"))
	if r.GetPolicyGeneration() > 0 || r.GetPolicyDigest() != "" {
		line("policy", "generation %d, sha256:%s", r.GetPolicyGeneration(), cmp.Or(r.GetPolicyDigest(), "not recorded"))
	}
	if r.GetShadow() != nil {
		line("shadow", "%s", shadowText(r.GetShadow()))
	}
	if r.GetDetail() != "" {
		line("detail", "%s", r.GetDetail())
	}
	s.writePolicy(&b)
	return b.String()
}

func stamp(t *timestamppb.Timestamp) string { return t.AsTime().UTC().Format(time.RFC3339Nano) }

func callerText(r *auditv1.Record) string {
	c := r.GetCaller()
	if c.GetSpiffeId() == "" {
		return "no identity was proved"
	}
	text := c.GetSpiffeId()
	if c.GetSvidSerial() != "" {
		text += ", SVID " + c.GetSvidSerial()
	}
	if c.GetSvidExpiry() != nil {
		text += " until " + stamp(c.GetSvidExpiry())
	}
	return text
}

func userText(r *auditv1.Record) string {
	u := r.GetUser()
	if u == nil {
		return "none: the workload called for itself, or no token proved a user"
	}
	text := fmt.Sprintf("%s of %s", u.GetSubject(), u.GetIssuer())
	if audit.IsPseudonym(u.GetSubject()) {
		text += ", who is not named: audit.pseudonym_key is set"
	}
	if u.GetExpiry() != nil {
		text += ", token until " + stamp(u.GetExpiry())
	}
	return text
}

func whatText(r *auditv1.Record) string {
	text := cmp.Or(r.GetAction(), "no known action")
	if r.GetModel() != "" {
		text += " on " + r.GetModel()
	}
	switch {
	case r.GetModelVersion() > 0:
		text += fmt.Sprintf(" version %d, %s", r.GetModelVersion(), cmp.Or(r.GetModelDigest(), "no digest"))
	case r.GetModel() != "":
		text += ", which was not resolved to a version"
	}
	if r.GetMethod() != "" {
		text += ", by " + r.GetMethod()
	}
	return text
}

func amountText(r *auditv1.Record) string {
	text := fmt.Sprintf("%s metered, %d run; %s received, %d sent",
		count64(r.GetRowsReceived(), "row"), r.GetRowsRun(), count64(r.GetMessagesReceived(), "message"), r.GetMessagesSent())
	var refused []string
	for reason, n := range r.GetRefused() {
		refused = append(refused, fmt.Sprintf("%d %s", n, reason))
	}
	if slices.Sort(refused); len(refused) > 0 {
		text += "; batches refused: " + strings.Join(refused, ", ")
	}
	return text
}

// decisionText says plainly what the policy found.
func decisionText(r *auditv1.Record) string {
	text := r.GetDecision()
	switch text {
	case "":
		if r.GetPolicyGeneration() > 0 {
			return "not recorded"
		}
		return "none: the call ended before the policy was asked"
	case policy.Allowed.String():
		if r.GetCode() != 0 {
			text += "; what ended the call came after it"
		}
	case policy.NoRole.String():
		text += ": nothing matched: no binding gives this caller a role"
	case policy.NotGranted.String():
		text += ": the caller has a role, and no rule of its roles allows this"
	case policy.CallerBlocked.String():
		text += ": the policy blocks this caller"
	case policy.AddressBlocked.String():
		text += ": the policy blocks the address"
	case policy.UserMismatch.String():
		text += ": bindings match the caller, and all ask for another user than the call's"
	case policy.ConditionFailed.String():
		text += ": the condition of a rule could not be evaluated, and no other rule allows this"
	}
	if messages := r.GetMessagesReceived(); messages > 1 {
		text += fmt.Sprintf(" (the last decision of a stream of %d messages)", messages)
	}
	return text
}

func shadowText(s *auditv1.Shadow) string {
	verdict := "agrees"
	switch {
	case s.GetWouldAllow() > 0 && s.GetWouldDeny() > 0, s.GetWouldAllow() > 1, s.GetWouldDeny() > 1:
		verdict = fmt.Sprintf("would have decided otherwise: allowed what was refused %s, refused what was allowed %s",
			count64(s.GetWouldAllow(), "time"), count64(s.GetWouldDeny(), "time"))
	case s.GetWouldAllow() > 0:
		verdict = "would have allowed it"
	case s.GetWouldDeny() > 0:
		verdict = "would have refused it"
	}
	text := fmt.Sprintf("%s; at last %s", verdict, s.GetDecision())
	if s.GetDetail() != "" {
		text += ", " + s.GetDetail()
	}
	return text + "; sha256:" + cmp.Or(s.GetPolicyDigest(), "not recorded")
}

// writePolicy adds what the policy that was asked says.
func (s callStory) writePolicy(b *strings.Builder) {
	asked, digest := s.Policy, s.record.GetPolicyDigest()
	switch {
	case asked == nil && digest != "":
		fmt.Fprintf(b, "\nfor the rules behind it give --policy FILE, of the file with that SHA-256\n")
		return
	case asked == nil:
		return
	case asked.Decided:
		fmt.Fprintf(b, "\nby %s, the policy that decided:\n", asked.File)
	case digest == "":
		fmt.Fprintf(b, "\nWARNING: the record does not say which policy decided; this is what %s says:\n", asked.File)
	default:
		fmt.Fprintf(b, "\nWARNING: %s is another policy than the one that decided (its SHA-256 is %s); this is what it says:\n", asked.File, asked.Digest)
	}
	for _, note := range asked.Notes {
		fmt.Fprintf(b, "note: %s\n", printable(note))
	}
	if asked.Explanation == nil {
		fmt.Fprintf(b, "nothing: the record has no caller, or no action\n")
		return
	}
	for line := range strings.Lines(asked.Explanation.String()) {
		fmt.Fprintf(b, "%s\n", printable(strings.TrimSuffix(line, "\n")))
	}
}

// unheld is said wherever claims of a user or circumstances count: what of them
// the record does not hold, and what gives it.
const unheld = "conditions or users count here, and the record does not hold a user's groups, scopes and methods of authentication, " +
	"nor the rows and time of each message; --user-group, --user-scope, --user-amr, --user-acr, --rows and --time give them"

// unrecorded is unheld, if a condition was evaluated or a binding asked about the
// call's user.
func unrecorded(e policy.Explanation) []string {
	if slices.ContainsFunc(e.Rules, func(rule policy.ConsideredRule) bool { return rule.Value != "" }) ||
		e.User != nil && slices.ContainsFunc(e.Bindings, func(b policy.MatchedBinding) bool { return b.User != "" }) {
		return []string{unheld}
	}
	return nil
}
