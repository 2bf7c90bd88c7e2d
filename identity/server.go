package identity

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"
)

// ServerConfig says whom a server lets in.
type ServerConfig struct {
	// TrustDomains are those whose workloads may connect. A bundle of another
	// domain in the source does not let its workloads in. Required.
	TrustDomains []spiffeid.TrustDomain
	// Admit has the last word on a caller whose certificate was verified, for
	// instance because it is blocked; nil admits all. Its error ends the
	// handshake and is wrapped by Refusal.Err. It runs in every handshake, before
	// the peer has proved that it has the key and once more after, and in Recheck:
	// it must not take the caller for present, and must not block.
	Admit func(caller *Caller, peer net.Addr) error
	// MaxPerCaller is how many connections one caller may have open at once, by its
	// SPIFFE ID; further ones are refused with ErrTooManyConnections. 0 is no bound.
	MaxPerCaller int
	// Refused is told of every handshake that failed, once, whatever the reason.
	// It runs on the goroutine of the handshake and must not block. Required.
	Refused func(Refusal)
}

// Refusal is a handshake that failed.
type Refusal struct {
	// Peer is the address at the other end.
	Peer net.Addr
	// Claimed is the SPIFFE ID of the certificate that the peer showed; zero if
	// it showed none, or one that names none. It is NOT proved: neither the
	// certificate nor that the peer has its key need have been verified.
	Claimed spiffeid.ID
	// Err is why. An x509.CertificateInvalidError is in it for a certificate that
	// has expired, Admit's own error for a caller not admitted, io.EOF if the
	// peer just left, a timeout if it did not go on.
	Err error
}

// ServerCredentials are the server's side of every connection. They know those
// that are open.
type ServerCredentials struct {
	common
	src      X509Source
	cfg      ServerConfig
	sessions *sessions // of all clones
}

var _ credentials.TransportCredentials = (*ServerCredentials)(nil)

// NewServerCredentials returns credentials for the server's side: TLS 1.3 with
// the source's SVID, and a peer that shows an X.509-SVID of one of the trust
// domains that cfg names. Every connection is verified in full; none resumes an
// earlier session. The connection carries an *AuthInfo. The source must outlive
// the credentials. How long a handshake may take is for the deadline of the
// connection to say (grpc.ConnectionTimeout). Whoever changes what the source or
// Admit say calls Recheck.
func NewServerCredentials(src X509Source, cfg ServerConfig) (*ServerCredentials, error) {
	var errs []error
	if src == nil {
		errs = append(errs, errors.New("no source of SVIDs"))
	}
	if len(cfg.TrustDomains) == 0 {
		errs = append(errs, errors.New("no trust domain may connect"))
	}
	if slices.ContainsFunc(cfg.TrustDomains, spiffeid.TrustDomain.IsZero) {
		errs = append(errs, errors.New("a trust domain is empty"))
	}
	if cfg.Refused == nil {
		errs = append(errs, errors.New("nobody is told of refused handshakes"))
	}
	if cfg.MaxPerCaller < 0 {
		errs = append(errs, errors.New("less than no connections for a caller"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("server credentials: %w", err)
	}
	cfg.TrustDomains = slices.Clone(cfg.TrustDomains)
	return &ServerCredentials{src: src, cfg: cfg, sessions: &sessions{maxPerCaller: cfg.MaxPerCaller}}, nil
}

// Recheck asks of every open connection whether it would be let in now: whether
// Admit still admits it and a bundle still verifies its SVID. What would not be
// ends, its RPCs first, the connection at most a quarter of a second later. It
// returns the sessions that it ended. It blocks for the time that this takes; a
// bundle that has not changed verifies nothing anew.
func (c *ServerCredentials) Recheck() []*Session {
	var ended []*Session
	ask := func(of []*Session, question func(*Session) error) {
		for _, s := range of {
			if s.Err() != nil {
				continue
			}
			if err := question(s); err != nil && s.end(fmt.Errorf("%w: %w", ErrRevoked, err)) {
				ended = append(ended, s)
			}
		}
	}
	// No block waits for signatures, and no short chain for those of a long one.
	all := c.sessions.all()
	ask(all, c.readmit)
	slices.SortFunc(all, func(a, b *Session) int { return cmp.Compare(len(a.certs), len(b.certs)) })
	ask(all, c.reverify)
	return ended
}

// Connections is how many connections are open.
func (c *ServerCredentials) Connections() int { return c.sessions.count() }

func (c *ServerCredentials) readmit(s *Session) error {
	return c.admit(s.caller, s.raw.RemoteAddr())
}

func (c *ServerCredentials) reverify(s *Session) error {
	bundle, err := c.src.GetX509BundleForTrustDomain(s.caller.ID.TrustDomain())
	if err != nil {
		return err
	}
	if last := s.bundle.Load(); bundle != last {
		if !bundle.Equal(last) {
			again, err := verify(s.certs, bundle, x509.ExtKeyUsageClientAuth)
			if err != nil {
				return err
			}
			s.endBy(again.NotAfter) // by another chain it may be sooner
		}
		s.bundle.Store(bundle)
	}
	return nil
}

// ServerHandshake blocks until the peer is verified or the connection's
// deadline has passed. The connection it returns ends when the peer's identity
// does: a peer that has a newer one connects again.
func (c *ServerCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var (
		caller  *Caller
		claimed spiffeid.ID
		certs   []*x509.Certificate
		bundle  = &lastBundle{Source: c.src}
	)
	// The configuration belongs to this one handshake. So no ticket key is shared
	// with another, even if tickets were on.
	conn := tls.Server(raw, &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate(c.src)
		},
		ClientAuth: tls.RequireAnyClientCert,
		// Not VerifyPeerCertificate: that one is left out when a session is
		// resumed.
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			certs = state.PeerCertificates
			claimed = claim(certs)
			caller, err = c.verify(state, claimed, bundle, raw.RemoteAddr())
			return err
		},
	})
	refuse := func(err error) (net.Conn, credentials.AuthInfo, error) {
		_ = conn.Close()
		c.cfg.Refused(Refusal{Peer: raw.RemoteAddr(), Claimed: claimed, Err: err})
		return nil, nil, err // as it is: gRPC compares it with io.EOF
	}
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return refuse(err)
	}
	// Not before: now the peer has proved that it has the key, so nobody uses up the
	// connections of another.
	session, err := c.sessions.begin(caller, raw, certs, bundle.got)
	if err != nil {
		return refuse(err)
	}
	// What has changed since verify was before the session was there for Recheck.
	if err := errors.Join(c.readmit(session), c.reverify(session)); err != nil {
		c.sessions.finish(session)
		return refuse(err)
	}
	info := authInfo(caller, conn)
	info.Session = session
	return &sessionConn{conn, session, c.sessions}, info, nil
}

// lastBundle remembers which bundle it gave.
type lastBundle struct {
	x509bundle.Source
	got *x509bundle.Bundle
}

func (l *lastBundle) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (_ *x509bundle.Bundle, err error) {
	l.got, err = l.Source.GetX509BundleForTrustDomain(td)
	return l.got, err
}

// claim is the ID that the peer's certificate names, if any.
func claim(certs []*x509.Certificate) spiffeid.ID {
	if len(certs) == 0 {
		return spiffeid.ID{}
	}
	id, err := x509svid.IDFromCert(certs[0])
	if err != nil || len(id.String()) > maxID {
		return spiffeid.ID{}
	}
	return id
}

func (c *ServerCredentials) verify(state tls.ConnectionState, claimed spiffeid.ID, bundles x509bundle.Source, peer net.Addr) (*Caller, error) {
	if err := checkALPN(state); err != nil {
		return nil, err
	}
	if !claimed.IsZero() && !slices.Contains(c.cfg.TrustDomains, claimed.TrustDomain()) {
		return nil, fmt.Errorf("workloads of trust domain %q may not connect", claimed.TrustDomain())
	}
	caller, err := verify(state.PeerCertificates, bundles, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	return caller, c.admit(caller, peer)
}

func (c *ServerCredentials) admit(caller *Caller, peer net.Addr) error {
	if c.cfg.Admit == nil {
		return nil
	}
	if err := c.cfg.Admit(caller, peer); err != nil {
		return fmt.Errorf("%s not admitted: %w", caller.ID, err)
	}
	return nil
}

func (*ServerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials used by a client")
}

func (c *ServerCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}
