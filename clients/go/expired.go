package sallyport

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sallyport/sallyport/identity"
)

// Identities that have ended: while the Workload API is away nobody gets a newer
// SVID, and soon after it is back both sides have one.

// errServerExpired is that a server was refused only because its SVID is no
// longer valid. gRPC hands it on as text.
var errServerExpired = errors.New("the server's SVID has expired")

// markExpired adds errServerExpired to the error of a handshake, if it is that. A
// certificate that is not valid yet is another matter.
func markExpired(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && time.Now().After(invalid.Cert.NotAfter) {
		return fmt.Errorf("%w: %w", errServerExpired, err)
	}
	return err
}

// skew is how far a server's clock may be ahead of ours: it then refuses our SVID
// before it has expired here.
const skew = 2 * time.Second

// ownExpired is the error of a call that found no server while our SVID was
// expired, or about to.
type ownExpired struct {
	notAfter time.Time // of the SVID
	when     time.Time // the call failed
	err      error
}

func (e *ownExpired) Error() string {
	expired := "expired"
	if e.when.Before(e.notAfter) {
		expired = "expires"
	}
	return fmt.Sprintf("our SVID %s at %s: %v", expired, e.notAfter.UTC().Format(time.RFC3339), e.err)
}

func (e *ownExpired) Unwrap() error { return e.err }

// oneRefused is the error of a call that found no server, of which one was refused
// for its identity and others were only not there.
type oneRefused struct{ error }

func (e *oneRefused) Unwrap() error { return e.error }

// explain is err, as a call over the generation ended with it, as an ownExpired or
// a oneRefused if it is one. A server that refuses our certificate cannot always
// say so.
func (g *generation) explain(err error) error {
	if err == nil {
		return nil
	}
	now, notAfter := time.Now(), g.svid.Certificates[0].NotAfter
	st := statusOf(err)
	if st == nil || st.Code() != codes.Unavailable || reasonOf(err) != "" {
		return err
	}
	cause := identity.HandshakeCause(st.Err())
	if errors.Is(cause, identity.ErrServerRefused) {
		if g.servers.others(int(g.names.addresses.Load())) {
			return &oneRefused{err}
		}
		return err
	}
	if now.Add(skew).Before(notAfter) || cause == nil && now.Before(notAfter) {
		return err
	}
	return &ownExpired{notAfter, now, err}
}
