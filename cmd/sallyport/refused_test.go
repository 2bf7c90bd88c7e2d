package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// refusal is an error as a server's answer carries it.
func refusal(t testing.TB, c codes.Code, text string, details ...protoadapt.MessageV1) error {
	t.Helper()
	st, err := status.New(c, text).WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

func reason(r string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Domain: "sallyport", Reason: r}
}

func retryIn(d time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

func TestClassify(t *testing.T) {
	callID := &errdetails.RequestInfo{RequestId: "01JD"}
	for _, tt := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{name: "no error"},
		{name: "not of a call", err: errors.New("disk full"), code: exitFailed, want: "disk full"},
		{name: "has a code", err: usage(status.Error(codes.NotFound, "x")), code: exitUsage, want: "rpc error: code = NotFound desc = x"},
		{
			name: "denied",
			err:  refusal(t, codes.PermissionDenied, "the policy does not allow this", reason("POLICY_DENIED"), callID),
			code: exitDenied,
			want: "PERMISSION_DENIED (POLICY_DENIED): the policy does not allow this\n  call id 01JD",
		},
		{
			name: "no identity",
			err:  refusal(t, codes.Unauthenticated, "the SVID has expired", reason("IDENTITY_EXPIRED")),
			code: exitDenied,
			want: "UNAUTHENTICATED (IDENTITY_EXPIRED): the SVID has expired",
		},
		{
			name: "invalid",
			err: refusal(t, codes.InvalidArgument, "the request is invalid", reason("REQUEST_INVALID"), &errdetails.BadRequest{
				FieldViolations: []*errdetails.BadRequest_FieldViolation{
					{Field: `inputs["features"].shape`, Description: "must have 2 dimensions"},
					{Field: "version", Description: "must not be negative"},
				},
			}, callID),
			code: exitFailed,
			want: "INVALID_ARGUMENT (REQUEST_INVALID): the request is invalid\n" +
				"  inputs[\"features\"].shape: must have 2 dimensions\n" +
				"  version: must not be negative\n" +
				"  call id 01JD",
		},
		{
			name: "over quota",
			err: refusal(t, codes.ResourceExhausted, "row quota exhausted", reason("QUOTA_ROWS"), &errdetails.QuotaFailure{
				Violations: []*errdetails.QuotaFailure_Violation{{Subject: "rows", Description: "500 a second"}},
			}, retryIn(1142*time.Millisecond)),
			code: exitFailed,
			want: "RESOURCE_EXHAUSTED (QUOTA_ROWS): row quota exhausted\n  quota of rows: 500 a second\n  retry in 1.2s",
		},
		{
			name: "short delay",
			err:  refusal(t, codes.ResourceExhausted, "overloaded", reason("OVERLOADED"), retryIn(20100*time.Microsecond)),
			code: exitFailed,
			want: "RESOURCE_EXHAUSTED (OVERLOADED): overloaded\n  retry in 21ms",
		},
		{
			name: "wrapped",
			err:  fmt.Errorf("rows 1 to 5: %w", refusal(t, codes.PermissionDenied, "no", reason("CALLER_BLOCKED"))),
			code: exitDenied,
			want: "rows 1 to 5: PERMISSION_DENIED (CALLER_BLOCKED): no",
		},
		{
			name: "text that would steer a terminal",
			err:  refusal(t, codes.NotFound, "no\x1b[2Jmodel\n  call id forged", reason("X\x07")),
			code: exitFailed,
			want: `NOT_FOUND (X\a): no\x1b[2Jmodel\n  call id forged`,
		},
		{
			name: "handshake refused by the server",
			err: status.Error(codes.Unavailable, `connection error: desc = "error reading server preface: `+
				`the server does not accept our identity spiffe://a.test/x: remote error: tls: bad certificate"`),
			code: exitDenied,
			want: "UNAVAILABLE: the server does not accept our identity spiffe://a.test/x: remote error: tls: bad certificate",
		},
		{
			name: "handshake refused by us",
			err: status.Error(codes.Unavailable, `connection error: desc = "transport: authentication handshake failed: `+
				`the server's identity is not accepted: the server is spiffe://a.test/x, not spiffe://a.test/y"`),
			code: exitFailed,
			want: "UNAVAILABLE: the server's identity is not accepted: the server is spiffe://a.test/x, not spiffe://a.test/y",
		},
		{
			name: "nobody listens",
			err:  status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`),
			code: exitFailed,
			want: "UNAVAILABLE: nobody listens at 127.0.0.1:1; is the server running, and is its address right?",
		},
		{
			name: "unknown host",
			err:  status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp: lookup nowhere.test: no such host"`),
			code: exitFailed,
			want: "UNAVAILABLE: the server's host name is unknown (lookup nowhere.test: no such host)",
		},
		{
			name: "no route",
			err:  status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 10.9.9.9:1: i/o timeout"`),
			code: exitFailed,
			want: "UNAVAILABLE: no connection to 10.9.9.9:1: i/o timeout",
		},
		{
			name: "handshake refused without our credentials",
			err:  status.Error(codes.Unavailable, `connection error: desc = "error reading server preface: remote error: tls: certificate required"`),
			code: exitFailed,
			want: "UNAVAILABLE: the server refused the handshake: tls: certificate required",
		},
		{
			name: "closed before the first answer",
			err:  status.Error(codes.Unavailable, `connection error: desc = "error reading server preface: EOF"`),
			code: exitFailed,
			want: "UNAVAILABLE: the server closed the connection before it answered, as it may if it does not accept our identity; " +
				"its audit log says why (error reading server preface: EOF)",
		},
		{
			name: "our deadline",
			err:  status.Error(codes.DeadlineExceeded, "context deadline exceeded"),
			code: exitFailed,
			want: "DEADLINE_EXCEEDED: no answer in time; --timeout says how long to wait",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := classify(tt.err)
			if code := exitOf(err); code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			if diff := cmp.Diff(tt.want, errText(err)); diff != "" {
				t.Error(diff)
			}
			if err != nil && !errors.Is(err, tt.err) {
				t.Error("the error itself is lost")
			}
		})
	}
}
