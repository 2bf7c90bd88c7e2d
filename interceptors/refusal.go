package interceptors

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the domain of every ErrorInfo that leaves the server.
const Domain = "sallyport"

// Reason is the machine-readable reason of a refusal, as in ErrorInfo.
type Reason string

// Every reason that a call can end with. Their codes and texts are in reasons.
const (
	IdentityMissing  Reason = "IDENTITY_MISSING"
	IdentityExpired  Reason = "IDENTITY_EXPIRED"
	IdentityRevoked  Reason = "IDENTITY_REVOKED"
	TokenInvalid     Reason = "TOKEN_INVALID"
	TokenExpired     Reason = "TOKEN_EXPIRED"
	TokenUnverified  Reason = "TOKEN_UNVERIFIED"
	PolicyDenied     Reason = "POLICY_DENIED"
	CallerBlocked    Reason = "CALLER_BLOCKED"
	QuotaRequests    Reason = "QUOTA_REQUESTS"
	QuotaRows        Reason = "QUOTA_ROWS"
	QuotaStreams     Reason = "QUOTA_STREAMS"
	QuotaBudget      Reason = "QUOTA_BUDGET"
	QuotaUnavailable Reason = "QUOTA_UNAVAILABLE"
	Overloaded       Reason = "OVERLOADED"
	MessageTooLarge  Reason = "MESSAGE_TOO_LARGE"
	RequestInvalid   Reason = "REQUEST_INVALID"
	ContractViolated Reason = "CONTRACT_VIOLATED"
	Malformed        Reason = "MALFORMED"
	ModelNotFound    Reason = "MODEL_NOT_FOUND"
	ServiceNotFound  Reason = "SERVICE_NOT_FOUND"
	MethodUnknown    Reason = "METHOD_UNKNOWN"
	AuditUnavailable Reason = "AUDIT_UNAVAILABLE"
	ModelNotReady    Reason = "MODEL_NOT_READY"
	Draining         Reason = "DRAINING"
	DeadlineExceeded Reason = "DEADLINE_EXCEEDED"
	Cancelled        Reason = "CANCELLED"
	Internal         Reason = "INTERNAL"
)

// reasons is the one table from reason to status code and to the fixed text
// that the caller gets.
var reasons = map[Reason]struct {
	code codes.Code
	text string
}{
	IdentityMissing:  {codes.Unauthenticated, "the connection has no workload identity"},
	IdentityExpired:  {codes.Unauthenticated, "the connection's X.509-SVID has expired; reconnect with a fresh one"},
	IdentityRevoked:  {codes.Unauthenticated, "the connection's identity no longer holds"},
	TokenInvalid:     {codes.Unauthenticated, "the user's token is not accepted"},
	TokenExpired:     {codes.Unauthenticated, "the user's token has expired; call again with a fresh one"},
	TokenUnverified:  {codes.Unavailable, "the user's token cannot be verified now; retry later"},
	PolicyDenied:     {codes.PermissionDenied, "the policy does not allow this"},
	CallerBlocked:    {codes.PermissionDenied, "the caller is blocked"},
	QuotaRequests:    {codes.ResourceExhausted, "request quota exhausted"},
	QuotaRows:        {codes.ResourceExhausted, "row quota exhausted"},
	QuotaStreams:     {codes.ResourceExhausted, "too many open streams"},
	QuotaBudget:      {codes.ResourceExhausted, "not enough of the period's budget is left"},
	QuotaUnavailable: {codes.Unavailable, "quotas cannot be counted, so the call is not answered; retry later"},
	Overloaded:       {codes.ResourceExhausted, "the server is overloaded; retry later"},
	MessageTooLarge:  {codes.ResourceExhausted, "the message is larger than the server accepts"},
	RequestInvalid:   {codes.InvalidArgument, "the request is invalid"},
	ContractViolated: {codes.InvalidArgument, "the inputs do not fit the model's contract"},
	Malformed:        {codes.InvalidArgument, "the message is not what the method's schema says"},
	ModelNotFound:    {codes.NotFound, "no such model or version"},
	ServiceNotFound:  {codes.NotFound, "no such service"},
	MethodUnknown:    {codes.Unimplemented, "no such method"},
	AuditUnavailable: {codes.Unavailable, "the call cannot be recorded, so it is not answered; retry later"},
	ModelNotReady:    {codes.Unavailable, "the model is not ready; retry later"},
	Draining:         {codes.Unavailable, "the server is stopping; retry elsewhere"},
	DeadlineExceeded: {codes.DeadlineExceeded, "the deadline passed before the answer was ready"},
	Cancelled:        {codes.Canceled, "the caller cancelled the call"},
	Internal:         {codes.Internal, "internal error; the operator can find its cause by the call id"},
}

// Code is the status code that belongs to the reason.
func (r Reason) Code() codes.Code {
	if e, ok := reasons[r]; ok {
		return e.code
	}
	return codes.Internal
}

// Refusal is the error with which a gate or a handler ends a call or a batch.
// It separates what the caller is told (reason and public details) from what
// only the operator learns (Detail and Cause).
type Refusal struct {
	// Reason decides code and text.
	Reason Reason
	// Detail is for the audit log and the operator.
	Detail string
	// Cause is the error behind the refusal, for the operator; may be nil.
	Cause error
	// Violations are told to the caller as BadRequest.
	Violations []*errdetails.BadRequest_FieldViolation
	// Quota is told to the caller as QuotaFailure.
	Quota *errdetails.QuotaFailure_Violation
	// RetryAfter is told to the caller as RetryInfo if it is more than 0.
	RetryAfter time.Duration
}

// Refuse returns a refusal with a detail for the operator.
func Refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Error is the operator's text.
func (r *Refusal) Error() string {
	var b strings.Builder
	b.WriteString(string(r.Reason))
	if r.Detail != "" {
		b.WriteString(": ")
		b.WriteString(r.Detail)
	}
	if r.Cause != nil {
		b.WriteString(": ")
		b.WriteString(r.Cause.Error())
	}
	for i, v := range r.Violations {
		if i == 4 {
			fmt.Fprintf(&b, "; and %d more", len(r.Violations)-i)
			break
		}
		fmt.Fprintf(&b, "; %s: %s", clip(v.GetField(), maxViolationBytes), clip(v.GetDescription(), maxViolationBytes))
	}
	return b.String()
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Cause }

// status is what the caller gets. callID may be empty if there is no call yet.
func (r *Refusal) status(callID string) *status.Status {
	e, ok := reasons[r.Reason]
	if !ok {
		r = &Refusal{Reason: Internal}
		e = reasons[Internal]
	}
	details := make([]protoadapt.MessageV1, 0, 4)
	details = append(details, &errdetails.ErrorInfo{Reason: string(r.Reason), Domain: Domain})
	if len(r.Violations) > 0 {
		details = append(details, badRequest(r.Violations))
	}
	if r.Quota != nil {
		details = append(details, &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{r.Quota}})
	}
	if r.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.RetryAfter)})
	}
	if callID != "" {
		details = append(details, &errdetails.RequestInfo{RequestId: callID})
	}
	st, err := status.New(e.code, e.text).WithDetails(details...)
	if err != nil {
		// Only a code of OK or a message that cannot be marshalled ends here;
		// the refusal stands without its details.
		return status.New(e.code, e.text)
	}
	return st
}

// Violations and their texts are bounded, since a hostile message can make many
// and long ones and they travel in the trailers.
const (
	maxViolations     = 16
	maxViolationBytes = 256
)

func badRequest(violations []*errdetails.BadRequest_FieldViolation) *errdetails.BadRequest {
	out := &errdetails.BadRequest{}
	for _, v := range violations[:min(len(violations), maxViolations+1)] {
		out.FieldViolations = append(out.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field:       clip(v.GetField(), maxViolationBytes),
			Description: clip(v.GetDescription(), maxViolationBytes),
			Reason:      v.GetReason(),
		})
	}
	return out
}
