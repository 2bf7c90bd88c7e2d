package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity"
)

// callError is the error of a call with a text for people.
type callError struct{ err error }

func (e *callError) Error() string { return describeError(e.err) }
func (e *callError) Unwrap() error { return e.err }

// classify gives the error of a call its text for people and its exit code. An
// error that has a code of its own, or comes from no call, stays as it is.
func classify(err error) error {
	var coded *exitError
	st := statusOf(err)
	if err == nil || st == nil || errors.As(err, &coded) {
		return err
	}
	refusedUs := identity.HandshakeCause(st.Err()) == identity.ErrCallerRefused //nolint:errorlint // it returns the sentinel itself
	if st.Code() == codes.Unauthenticated || st.Code() == codes.PermissionDenied || refusedUs {
		return denied(&callError{err})
	}
	return &callError{err}
}

// statusOf is the status in err, without what was wrapped around it; nil if
// there is none.
func statusOf(err error) *status.Status {
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) {
		return nil
	}
	return s.GRPCStatus()
}

// retryAfter is how long the server asks to wait before a call that exceeded a
// quota is made again; false if that would not help.
func retryAfter(err error) (time.Duration, bool) {
	st := statusOf(err)
	if st.Code() != codes.ResourceExhausted {
		return 0, false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok && info.GetRetryDelay() != nil {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// describeError is the text of an error for people. If it is the error of a
// call, that is its code, its reason and text, and then every detail on a line
// of its own: fields, quotas, when to try again, the call's id.
func describeError(err error) string {
	st := statusOf(err)
	if st == nil {
		return err.Error()
	}
	var reason string
	var lines []string
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = " (" + printable(d.GetReason()) + ")"
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				lines = append(lines, printable(v.GetField())+": "+printable(v.GetDescription()))
			}
		case *errdetails.QuotaFailure:
			for _, v := range d.GetViolations() {
				lines = append(lines, "quota of "+printable(v.GetSubject())+": "+printable(v.GetDescription()))
			}
		case *errdetails.RetryInfo:
			lines = append(lines, "retry in "+seconds(d.GetRetryDelay().AsDuration()))
		case *errdetails.RequestInfo:
			lines = append(lines, "call id "+printable(d.GetRequestId()))
		}
	}
	text := printable(st.Message())
	if reason == "" {
		text = explainTransport(st)
	}
	// What our own code wrapped around the status says which part failed.
	wrapped := strings.TrimSuffix(err.Error(), st.Err().Error())
	lines = append([]string{fmt.Sprintf("%s%s%s: %s", wrapped, codeName(st.Code()), reason, text)}, lines...)
	return strings.Join(lines, "\n  ")
}

// seconds is a delay rounded up to a tenth of a second, or to a millisecond if
// it is shorter than that.
func seconds(d time.Duration) string {
	unit := 100 * time.Millisecond
	if d < unit {
		unit = time.Millisecond
	}
	return ((d + unit - 1) / unit * unit).String()
}

// codeName is the canonical name of a status code: "PERMISSION_DENIED".
func codeName(c codes.Code) string {
	return code.Code(c).String() //nolint:gosec // a status code is a small number
}

var (
	dialError   = regexp.MustCompile(`dial (?:tcp|unix)(?: (\S+))?: (.*?)"?$`)
	desc        = regexp.MustCompile(`^connection error: desc = "(.*?)"?$`)
	alert       = regexp.MustCompile(`remote error: (tls: .*)$`)
	beforeFirst = regexp.MustCompile(`error reading server preface|failed to write client preface`)
)

// explainTransport says what to look at when gRPC itself, not the server, ended
// the call. gRPC hands the cause on as text only.
func explainTransport(st *status.Status) string {
	message := st.Message()
	if st.Code() == codes.DeadlineExceeded {
		return "no answer in time; --timeout says how long to wait"
	}
	if m := desc.FindStringSubmatch(message); m != nil {
		message = strings.ReplaceAll(m[1], `\"`, `"`)
	}
	if cause := identity.HandshakeCause(st.Err()); cause != nil {
		return printable(message[strings.Index(message, cause.Error()):])
	}
	if m := dialError.FindStringSubmatch(message); m != nil {
		switch {
		case strings.HasSuffix(m[2], "connection refused"):
			return fmt.Sprintf("nobody listens at %s; is the server running, and is its address right?", m[1])
		case strings.Contains(m[2], "no such host"):
			return fmt.Sprintf("the server's host name is unknown (%s)", printable(m[2]))
		}
		return fmt.Sprintf("no connection to %s: %s", m[1], printable(m[2]))
	}
	if m := alert.FindStringSubmatch(message); m != nil {
		return "the server refused the handshake: " + printable(m[1])
	}
	if beforeFirst.MatchString(message) {
		return "the server closed the connection before it answered, as it may if it does not accept our identity; its audit log says why (" + printable(message) + ")"
	}
	return printable(message)
}

// reasonOf is the reason in the ErrorInfo of a call's error, or "".
func reasonOf(err error) string {
	if st := statusOf(err); st != nil {
		for _, detail := range st.Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				return info.GetReason()
			}
		}
	}
	return ""
}
