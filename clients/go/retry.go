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
//
// After an attempt whose server was lost or refused, the next goes at once if
// there is another server; later ones wait. What a server asks for (RetryInfo) is
// waited for in any case; if that is longer than MaxBackoff, or than the caller's
// context allows, the error is returned at once.
type Retry struct {
	// Attempts is how often a unary call is made; 4. For a stream it is how often
	// in a row it is opened and no batch runs; 12, which reach over 20 s at least.
	Attempts int
	// Backoff is the first wait; 100 ms. Each further wait is twice the one before,
	// all are spread by a fifth.
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

// wait is how long to wait after the given attempt, counted from 1, that ended
// with err. elsewhere is that there is another server; ok is false if the server
// asks for a longer wait than there may be.
func (r Retry) wait(attempt int, err error, elsewhere bool) (d time.Duration, ok bool) {
	if elsewhere {
		attempt--
	}
	spread := rand.Float64() //nolint:gosec // jitter is no secret
	if attempt > 0 {
		d = min(r.Backoff<<min(attempt-1, 16), r.MaxBackoff)
		d = time.Duration(float64(d) * (0.8 + 0.4*spread))
	}
	asked := retryAfter(err)
	// All callers are asked for the same wait and should not come back together.
	return max(d, time.Duration(float64(asked)*(1+0.2*spread))), asked <= r.MaxBackoff
}

// fits tells whether ctx leaves time for more than the wait.
func fits(ctx context.Context, wait time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return !ok || time.Until(deadline) > wait
}

// pause waits, and tells whether ctx was not done before.
func pause(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
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
	overloaded      = "OVERLOADED"
)

// retriable tells whether a call may have more luck a moment later: the server
// could not take it, its answer was lost, or an identity has ended, the caller's
// or the server's, that will be renewed. reached tells whether a connection to a
// server was ever made.
func retriable(err error, reached bool) bool {
	st := statusOf(err)
	if st == nil {
		return false
	}
	if cause := identity.HandshakeCause(st.Err()); errors.Is(cause, identity.ErrServerRefused) {
		var one *oneRefused
		return reached && (errors.As(err, &one) || strings.Contains(st.Message(), errServerExpired.Error()))
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
	reason := reasonOf(err)
	return reason == identityExpired || reason == overloaded
}

// answered tells whether err is the end of a call that a server has seen.
func answered(err error) bool { return err == nil || reasonOf(err) != "" }

// lost tells whether err is the end of a call whose connection is gone, or was
// never there.
func lost(err error) bool {
	st := statusOf(err)
	return st != nil && (st.Code() == codes.Unavailable || st.Code() == codes.Canceled) && reasonOf(err) == "" && !errors.Is(err, errDraining)
}

// reasonOf is the reason in the ErrorInfo of a server's error, or "".
func reasonOf(err error) string {
	for _, detail := range details(err) {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return info.GetReason()
		}
	}
	return ""
}

// retryAfter is how long the server asks to wait, or 0.
func retryAfter(err error) time.Duration {
	for _, detail := range details(err) {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return max(info.GetRetryDelay().AsDuration(), 0)
		}
	}
	return 0
}

func details(err error) []any {
	if st := statusOf(err); st != nil {
		return st.Details()
	}
	return nil
}

// statusOf is the status in err, without what was wrapped around it; nil if
// there is none.
func statusOf(err error) *status.Status {
	if err == nil {
		return nil
	}
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) {
		return nil
	}
	return s.GRPCStatus()
}
