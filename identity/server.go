package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"

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
	// the peer has proved that it has the key: it must not take the caller for
	// present, and must not block.
	Admit func(caller *Caller, peer net.Addr) error
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

type serverCredentials struct {
	common
	src X509Source
	cfg ServerConfig
}

// NewServerCredentials returns credentials for the server's side: TLS 1.3 with
// the source's SVID, and a peer that shows an X.509-SVID of one of the trust
// domains that cfg names. Every connection is verified in full; none resumes an
// earlier session. The connection carries an *AuthInfo. The source must outlive
// the credentials. How long a handshake may take is for the deadline of the
// connection to say (grpc.ConnectionTimeout).
func NewServerCredentials(src X509Source, cfg ServerConfig) (credentials.TransportCredentials, error) {
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
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("server credentials: %w", err)
	}
	cfg.TrustDomains = slices.Clone(cfg.TrustDomains)
	return &serverCredentials{src: src, cfg: cfg}, nil
}

// ServerHandshake blocks until the peer is verified or the connection's
// deadline has passed. The connection it returns is closed when the peer's
// identity ends: a peer that has a newer one connects again.
func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var (
		caller  *Caller
		claimed spiffeid.ID
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
			claimed = claim(state.PeerCertificates)
			caller, err = c.verify(state, claimed, raw.RemoteAddr())
			return err
		},
	})
	if err := conn.HandshakeContext(context.Background()); err != nil {
		_ = conn.Close()
		c.cfg.Refused(Refusal{Peer: raw.RemoteAddr(), Claimed: claimed, Err: err})
		return nil, nil, err // as it is: gRPC compares it with io.EOF
	}
	return endAt(conn, raw, caller.NotAfter), authInfo(caller, conn), nil
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

func (c *serverCredentials) verify(state tls.ConnectionState, claimed spiffeid.ID, peer net.Addr) (*Caller, error) {
	if err := checkALPN(state); err != nil {
		return nil, err
	}
	if !claimed.IsZero() && !slices.Contains(c.cfg.TrustDomains, claimed.TrustDomain()) {
		return nil, fmt.Errorf("workloads of trust domain %q may not connect", claimed.TrustDomain())
	}
	caller, err := verify(state.PeerCertificates, c.src, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	if c.cfg.Admit != nil {
		if err := c.cfg.Admit(caller, peer); err != nil {
			return nil, fmt.Errorf("%s not admitted: %w", caller.ID, err)
		}
	}
	return caller, nil
}

func (*serverCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials used by a client")
}

func (c *serverCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}
