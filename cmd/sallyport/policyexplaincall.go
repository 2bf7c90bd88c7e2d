package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// callStory is why a call went as it did, in the JSON form of policy explain.
type callStory struct {
	Record json.RawMessage `json:"record"`
	Policy *askedPolicy    `json:"policy,omitempty"`
	record *auditv1.Record
}

// askedPolicy is what a policy says about a recorded call.
type askedPolicy struct {
	File   string `json:"file"`
	Digest string `json:"digest"`
	// Decided is whether it is the policy that decided on the call.
	Decided bool `json:"decided"`
	// Notes are why what follows may not be what happened.
	Notes []string `json:"notes,omitempty"`
	// Explanation is nil if there is nothing to ask.
	Explanation *policy.Explanation `json:"explanation,omitempty"`
}

func runExplainCall(ctx context.Context, w io.Writer, given *pflag.FlagSet, flags explainFlags) error {
	if err := errors.Join(besideCall(given), flags.circumstances(&policy.Request{}, time.Now())); err != nil {
		return usage(err)
	}
	if flags.call == "" {
		return usage(errors.New("--call: an id must not be empty"))
	}
	log, err := flags.keys.view(ctx, flags.audit)
	if err != nil {
		return err
	}
	record, err := findCall(ctx, log, flags.call)
	if err != nil {
		return whereLog(err, "--audit")
	}
	if len(record.GetSealed()) > 0 {
		return fmt.Errorf("record %d of call %s is sealed: give its key with --key-file, --key-env or --key-kms", record.GetSequence(), printable(flags.call))
	}
	if record.GetUser() == nil && flags.user.claims() {
		return usage(fmt.Errorf("call %s had no user whose claims could be given", flags.call))
	}
	if err := flags.resolveSubject(record); err != nil {
		return usage(err)
	}
	story := callStory{record: record}
	if given.Changed("policy") {
		if story.Policy, err = askPolicy(record, flags); err != nil {
			return err
		}
	}
	if flags.json {
		var encoded strings.Builder
		if err = writeMessage(&encoded, record); err == nil {
			story.Record = json.RawMessage(encoded.String())
			err = json.NewEncoder(w).Encode(story)
		}
	} else {
		_, err = io.WriteString(w, story.String())
	}
	if err == nil && wasRefused(record) {
		return denied(fmt.Errorf("call %s was refused: %s", printable(record.GetCallId()), answerText(record)))
	}
	return err
}

// findCall is the record of a call; the error says what was searched.
func findCall(ctx context.Context, log audit.View, id string) (*auditv1.Record, error) {
	r, err := log.Find(ctx, id)
	if !errors.Is(err, audit.ErrNoCall) {
		return r, err
	}
	records, handshakes := uint64(0), uint64(0)
	var first, last time.Time
	for r, err := range log.Records(ctx, 0) {
		if err != nil {
			return nil, fmt.Errorf("look for call %s: %w", printable(id), err)
		}
		if records++; records == 1 {
			first = r.GetTime().AsTime()
		}
		last = r.GetTime().AsTime()
		if r.GetKind() == auditv1.Kind_KIND_HANDSHAKE {
			handshakes++
		}
	}
	if records == 0 {
		return nil, fmt.Errorf("no call %s: the audit log in %s has no records", printable(id), log.Dir)
	}
	hint := ""
	if handshakes > 0 {
		hint = fmt.Sprintf("\n  a connection that is refused in its handshake has no call id, and %s: see 'sallyport audit show %s --kind handshake'",
			atLeast(handshakes), log.Dir)
	}
	return nil, fmt.Errorf("no call %s among the %s in %s, from %s to %s%s", printable(id), count64(records, "record"), log.Dir,
		first.UTC().Format(time.RFC3339), last.UTC().Format(time.RFC3339), hint)
}

func atLeast(n uint64) string {
	if n == 1 {
		return "1 was"
	}
	return fmt.Sprintf("%d were", n)
}

// wasRefused is whether the caller was not let in, or not to the model. What
// fails otherwise was allowed.
func wasRefused(r *auditv1.Record) bool {
	c := codes.Code(r.GetCode())
	return c == codes.PermissionDenied || c == codes.Unauthenticated
}

// askPolicy asks the policy that the flags name about the call.
func askPolicy(r *auditv1.Record, flags explainFlags) (*askedPolicy, error) {
	data, err := policy.ReadFile(flags.policy)
	if err != nil {
		return nil, usage(err)
	}
	_, index, err := parsePolicy(data, flags.policy)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	asked := &askedPolicy{File: flags.policy, Digest: hex.EncodeToString(sum[:])}
	asked.Decided = asked.Digest == r.GetPolicyDigest()
	request, ok := recordedRequest(r, flags)
	if !ok {
		return asked, nil
	}
	if err := flags.circumstances(&request, time.Now()); err != nil {
		return nil, usage(err)
	}
	e := index.Explain(request)
	asked.Explanation = &e
	if request.Model == "" && request.Action != policy.Introspect {
		whole(&e, index.MayEver(request))
		asked.Notes = append(asked.Notes, "the record names no model: what follows is whether the caller may do this on any model at all")
	}
	asked.Notes = append(asked.Notes, unrecorded(e)...)
	if request.User != nil && audit.IsPseudonym(request.User.Subject) {
		asked.Notes = append(asked.Notes, pseudonymNote)
	}
	if asked.Decided && r.GetDecision() != "" && r.GetDecision() != e.Outcome.String() {
		asked.Notes = append(asked.Notes, fmt.Sprintf("the record says %s and this %s: the decision rests on something that the record does not hold",
			printable(r.GetDecision()), e.Outcome))
	}
	return asked, nil
}

// whole makes e the story of a decision about any model.
func whole(e *policy.Explanation, d policy.Decision) {
	e.Allowed, e.Outcome, e.Detail, e.Grant = d.Allowed, d.Outcome, d.Detail, d.Grant
	e.Rules, e.Suggestions = nil, nil // they are about a model
}

// recordedRequest is what the policy was asked, as far as the record has it;
// false if no identity or no action was established.
func recordedRequest(r *auditv1.Record, flags explainFlags) (policy.Request, bool) {
	caller, err := spiffeid.FromString(r.GetCaller().GetSpiffeId())
	if err != nil {
		return policy.Request{}, false
	}
	action, err := policy.ParseAction(r.GetAction())
	if err != nil {
		return policy.Request{}, false
	}
	request := policy.Request{Caller: caller, Action: action, Model: r.GetModel(), Rows: clampRows(r.GetRowsReceived()), Time: r.GetTime().AsTime()}
	if from, err := netip.ParseAddrPort(r.GetPeerAddress()); err == nil {
		request.Address = from.Addr().Unmap()
	}
	if u := r.GetUser(); u != nil {
		request.User = &identity.User{
			Issuer: u.GetIssuer(), Subject: cmp.Or(flags.user.subject, u.GetSubject()), NotAfter: u.GetExpiry().AsTime(),
			Groups: flags.user.groups, Scopes: flags.user.scopes, AMR: flags.user.amr, ACR: flags.user.acr,
		}
	}
	return request, true
}

// pseudonymNote is what cannot be asked again.
const pseudonymNote = "the record has a pseudonym for the user: bindings that name subjects, and conditions on user.subject, may have decided otherwise; " +
	"--user-subject with --pseudonym-key-file gives the subject"

// resolveSubject checks that the subject given is the one whose pseudonym is on
// record.
func (f *explainFlags) resolveSubject(r *auditv1.Record) error {
	p, err := f.pseudonym.pseudonymizer()
	switch onRecord := r.GetUser().GetSubject(); {
	case err != nil || f.user.subject == "":
		return err
	case !audit.IsPseudonym(onRecord):
		return errors.New("--user-subject: the record has no pseudonym for a user")
	case p == nil || p.Pseudonym(f.user.subject) != onRecord:
		return errors.New("--user-subject: the pseudonym on record is not of this subject under this key")
	}
	return nil
}

func clampRows(n uint64) int64 { return int64(min(n, 1<<62)) }
