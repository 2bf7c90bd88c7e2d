package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// decidedCalls are records of calls on which the policy of that text decided.
func decidedCalls(policy string) []*auditv1.Record {
	sum := sha256.Sum256([]byte(policy))
	digest := hex.EncodeToString(sum[:])
	caller := func(id string) *auditv1.Caller {
		return &auditv1.Caller{SpiffeId: id, SvidSerial: "1f", SvidExpiry: timestamppb.New(began.Add(time.Hour))}
	}
	const predict = "/sallyport.inference.v1.PredictionService/Predict"
	records := []*auditv1.Record{
		{
			CallId: "01ANSWERED", Method: predict, PeerAddress: "192.0.2.1:5000", Caller: caller("spiffe://td/clinic/a"),
			Action: "PREDICT", Model: "digits", ModelVersion: 2, ModelDigest: "sha256:ab", Roles: []string{"reader"},
			MessagesReceived: 1, MessagesSent: 1, RowsReceived: 12, RowsRun: 12, Decision: "ALLOWED",
			Shadow: &auditv1.Shadow{PolicyDigest: "cd", WouldDeny: 1, Decision: "NOT_GRANTED", Detail: "no role of the caller allows the action on the model"},
		},
		{
			CallId: "01NOROLE", Method: predict, PeerAddress: "192.0.2.1:5001", Caller: caller("spiffe://td/intern"),
			Action: "PREDICT", Code: 7, Reason: "POLICY_DENIED", Detail: "POLICY_DENIED: no binding matches the caller", Decision: "NO_ROLE",
		},
		{
			CallId: "01NORULE", Method: predict, PeerAddress: "192.0.2.1:5002", Caller: caller("spiffe://td/clinic/a"),
			Action: "PREDICT", Model: "fraud", MessagesReceived: 1, Code: 7, Reason: "POLICY_DENIED",
			Detail: "POLICY_DENIED: no role of the caller allows the action on the model", Decision: "NOT_GRANTED",
		},
		{
			CallId: "01STREAM", Method: predict + "Stream", PeerAddress: "[2001:db8::1]:5003", Caller: caller("spiffe://td/clinic/a"),
			User:   &auditv1.User{Issuer: "https://idp", Subject: "alice\x1b[2J", Expiry: timestamppb.New(began.Add(time.Hour))},
			Action: "PREDICT_STREAM", Model: "night", Code: 7, Reason: "POLICY_DENIED", Decision: "NOT_GRANTED",
			MessagesReceived: 9, MessagesSent: 8, RowsReceived: 80, RowsRun: 70, Refused: map[string]uint64{"QUOTA_ROWS": 1, "CONTRACT_VIOLATED": 2},
			Shadow: &auditv1.Shadow{WouldAllow: 1, WouldDeny: 2, Decision: "ALLOWED"},
		},
		{
			CallId: "01QUOTA", Method: predict, PeerAddress: "192.0.2.1:5004", Caller: caller("spiffe://td/clinic/a"), Action: "PREDICT",
			Model: "digits", Roles: []string{"reader"}, MessagesReceived: 1, RowsReceived: 5, Code: 8, Reason: "QUOTA_ROWS", Decision: "ALLOWED",
		},
		{CallId: "01UNKNOWN", Method: "/x", PeerAddress: "192.0.2.1:5005", Caller: caller("spiffe://td/clinic/a"), Code: 12, Reason: "METHOD_UNKNOWN"},
		{CallId: "01NOBODY", Method: predict, PeerAddress: "192.0.2.1:5006", Action: "PREDICT", Code: 16, Reason: "IDENTITY_EXPIRED"},
		{
			CallId: "01LIST", Method: "/sallyport.inference.v1.ModelService/ListModels", PeerAddress: "192.0.2.1:5007",
			Caller: caller("spiffe://td/clinic/a"), Action: "DESCRIBE", Roles: []string{"reader"}, MessagesReceived: 1, MessagesSent: 1, Decision: "ALLOWED",
		},
		{
			CallId: "01ROWS", Method: predict, PeerAddress: "192.0.2.1:5008", Caller: caller("spiffe://td/clinic/a"),
			Action: "PREDICT", Model: "batch", MessagesReceived: 1, Code: 7, Reason: "POLICY_DENIED", Decision: "NOT_GRANTED",
		},
		{Kind: auditv1.Kind_KIND_HANDSHAKE, PeerAddress: "192.0.2.7:6000", Code: 16, Reason: "HANDSHAKE_FAILED", Detail: "certificate expired"},
	}
	for i, r := range records {
		r.Time, r.Duration = timestamppb.New(began.Add(time.Duration(i)*time.Minute)), durationpb.New(40*time.Microsecond)
		if r.GetKind() == auditv1.Kind_KIND_UNSPECIFIED {
			r.Kind = auditv1.Kind_KIND_CALL
		}
		if r.GetDecision() != "" {
			r.PolicyGeneration, r.PolicyDigest = 3, digest
		}
	}
	return records
}

// TestExamplePolicy runs the cases that ship with the policy of dev.
func TestExamplePolicy(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"policy", "test", "templates/policy_cases.yaml"}, nil, &out, &errOut); code != 0 {
		t.Fatalf("exit %d:\n%s%s", code, &out, &errOut)
	}
	if !regexp.MustCompile(`: [1-9][0-9]+ passed, 0 failed\n$`).MatchString(out.String()) {
		t.Errorf("it ended with %q", out.String())
	}
}
