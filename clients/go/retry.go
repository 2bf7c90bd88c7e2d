package sallyport

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity"
)

// Retry says how often to try, and how long to wait in between. The zero value
// of a field is its default.
type Retry struct {
	// Attempts is how often a unary call is made; 4. For a stream it is how often
	// in a row it is opened and no batch runs; 12, which reach over 25 s at least.
	Attempts int
	// Backoff is the wait before the second attempt; 100 ms. Each further wait is
	// twice the one before, all are spread by a fifth.
	Backoff time.Duration
	// MaxBackoff is the longest wait; 5 s.
	MaxBackoff time.Duration
}

func (r Retry) withDefaults(attempts int) Retry {
	return Retry{
		Attempts:   max(cmp.Or(r.Attempts, attempts), 1),
		Backoff:    cmp.Or(r.Backoff, 100*time.Millisecond),
		MaxBackoff: cmp.Or(r.MaxBackoff, 5*time.Second),
	}
}

// pause waits after the given attempt, counted from 1, and tells whether that
// left time to go on.
func (r Retry) pause(ctx context.Context, attempt int) bool {
	d := min(r.Backoff<<min(attempt-1, 16), r.MaxBackoff)
	d = time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // jitter is no secret
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// The reasons of a server's errors that the client acts on (docs/errors.md).
const (
	domain          = "sallyport"
	identityExpired = "IDENTITY_EXPIRED"
	tokenExpired    = "TOKEN_EXPIRED"
	quotaStreams    = "QUOTA_STREAMS"
)

// retriable tells whether a call may have more luck a moment later: the server
// could not take it, its answer was lost, or an identity has ended, the caller's
// or the server's, that will be renewed. reached tells whether a connection to the
// server was ever made.
func retriable(err error, reached bool) bool {
	st := statusOf(err)
	if st == nil {
		return false
	}
	if cause := identity.HandshakeCause(st.Err()); errors.Is(cause, identity.ErrServerRefused) {
		return reached && strings.Contains(st.Message(), errServerExpired.Error())
	} else if cause != nil {
		var own *ownExpired
		return reached && errors.As(err, &own)
	}
	switch st.Code() { //nolint:exhaustive // all else is an answer, or a fault of the call
	case codes.Unavailable:
		return reached || !strings.HasPrefix(st.Message(), "connection error:")
	case codes.Canceled:
		// Not by the caller, whose context is asked first: the connection was closed.
		return reasonOf(err) == ""
	}
	return reasonOf(err) == identityExpired
}

// answered tells whether err is the end of a call that a server has seen.
func answered(err error) bool { return err == nil || reasonOf(err) != "" }

// reasonOf is the reason in the ErrorInfo of a server's error, or "".
func reasonOf(err error) string {
	if st := statusOf(err); st != nil {
		for _, detail := range st.Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
				return info.GetReason()
			}
		}
	}
	return ""
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
