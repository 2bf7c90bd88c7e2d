package sallyport_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	"github.com/sallyport/sallyport/identity"
)

func TestRetriable(t *testing.T) {
	const never, known, always = 0, 1, 2 // known: if the server was there before
	connectionError := func(desc any) error { return status.Errorf(codes.Unavailable, "connection error: desc = \"%v\"", desc) }
	var (
		notConnected = connectionError("...")
		refusedUs    = connectionError(identity.ErrCallerRefused)
		refusedThem  = connectionError(identity.ErrServerRefused)
		// A handshake that fails for a certificate that holds from and until then.
		invalidThem = func(reason x509.InvalidReason, from, until time.Duration) error {
			now := time.Now()
			cert := &x509.Certificate{NotBefore: now.Add(from), NotAfter: now.Add(until)}
			return connectionError(sallyport.MarkExpired(fmt.Errorf("%w: %w", identity.ErrServerRefused, x509.CertificateInvalidError{Cert: cert, Reason: reason})))
		}
		expiredThem = invalidThem(x509.Expired, -time.Hour, -time.Second)
	)
	for name, tt := range map[string]struct {
		err  error
		want int
	}{
		"draining":              {refusal(codes.Unavailable, "DRAINING"), always},
		"wrapped":               {fmt.Errorf("x: %w", refusal(codes.Unavailable, "DRAINING")), always},
		"connection lost":       {status.Error(codes.Unavailable, "error reading from server: EOF"), always},
		"not connected":         {notConnected, known},
		"our identity":          {refusedUs, never},
		"their identity":        {refusedThem, never},
		"our identity, expired": {sallyport.OwnExpired(refusedUs, time.Now()), known},
		"our identity, expired by the server's clock": {sallyport.OwnExpired(refusedUs, time.Now().Add(time.Second)), known},
		"our identity, about to expire":               {sallyport.OwnExpired(refusedUs, time.Now().Add(10*time.Second)), never},
		"their identity, expired":                     {expiredThem, known},
		"their identity, not valid yet":               {invalidThem(x509.Expired, time.Minute, time.Hour), never},
		"their identity, expired and more":            {invalidThem(x509.IncompatibleUsage, -time.Hour, -time.Second), never},
		"their identity, ours expired":                {sallyport.OwnExpired(refusedThem, time.Now()), never},
		"both expired":                                {sallyport.OwnExpired(expiredThem, time.Now()), known},
		"not connected, ours expired":                 {sallyport.OwnExpired(notConnected, time.Now()), known},
		"denied, ours expired":                        {sallyport.OwnExpired(refusal(codes.PermissionDenied, "POLICY_DENIED"), time.Now()), never},
		"expired":                                     {refusal(codes.Unauthenticated, "IDENTITY_EXPIRED"), always},
		"revoked":                                     {refusal(codes.Unauthenticated, "IDENTITY_REVOKED"), never},
		"token expired":                               {refusal(codes.Unauthenticated, "TOKEN_EXPIRED"), never},
		"connection closed":                           {status.Error(codes.Canceled, "grpc: the client connection is closing"), always},
		"cancelled there":                             {refusal(codes.Canceled, "CANCELLED"), never},
		"overloaded":                                  {refusal(codes.ResourceExhausted, "OVERLOADED"), always},
		"over quota":                                  {refusal(codes.ResourceExhausted, "QUOTA_ROWS"), never},
		"denied":                                      {refusal(codes.PermissionDenied, "POLICY_DENIED"), never},
		"invalid":                                     {refusal(codes.InvalidArgument, "REQUEST_INVALID"), never},
		"deadline":                                    {status.Error(codes.DeadlineExceeded, "x"), never},
		"no gRPC at all":                              {errors.New("x"), never},
		"none":                                        {nil, never},
	} {
		if got := sallyport.Retriable(tt.err, false); got != (tt.want == always) {
			t.Errorf("%s, of a server that was never there: %v", name, got)
		}
		if got := sallyport.Retriable(tt.err, true); got != (tt.want != never) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// An error names our SVID's expiry if that is a reason.
func TestOwnExpired(t *testing.T) {
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	const says = "our SVID expired at 2020-01-02T03:04:05Z: "
	unavailable := func(text string) error { return status.Error(codes.Unavailable, text) }
	for name, tt := range map[string]struct {
		err  error
		at   time.Time
		want string // before the error itself
	}{
		"refused":               {unavailable(identity.ErrCallerRefused.Error()), at, says},
		"hung up":               {unavailable("error reading server preface: EOF"), at, says},
		"refused for something": {unavailable(identity.ErrCallerRefused.Error()), time.Now().Add(time.Hour), ""},
		"hung up for something": {unavailable("error reading server preface: EOF"), time.Now().Add(time.Second), ""},
		"the server is refused": {unavailable(identity.ErrServerRefused.Error()), at, ""},
		"the server's answer":   {refusal(codes.Unavailable, "DRAINING"), at, ""},
		"another answer":        {status.Error(codes.NotFound, "x"), at, ""},
		"no gRPC at all":        {errors.New("x"), at, ""},
	} {
		err := sallyport.OwnExpired(tt.err, tt.at)
		if got := err.Error(); got != tt.want+tt.err.Error() || status.Code(err) != status.Code(tt.err) {
			t.Errorf("%s: %v: %s", name, status.Code(err), got)
		}
	}
	if err := sallyport.OwnExpired(nil, at); err != nil {
		t.Error(err)
	}
}
