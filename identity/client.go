package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// ServerPath is the path of a Sallyport server's SPIFFE ID unless its operator
// chose another.
const ServerPath = "/sallyport"

// ServerID accepts the server with this SPIFFE ID and no other.
func ServerID(id spiffeid.ID) spiffeid.Matcher {
	return func(actual spiffeid.ID) error {
		if actual != id {
			return fmt.Errorf("the server is %s, not %s", actual, id)
		}
		return nil
	}
}

// DefaultServer accepts every server whose SPIFFE ID has the path ServerPath, in
// the client's own trust domain and in every other that it has a bundle of.
// Whoever runs one of these domains can therefore stand in for the server; a
// client that federates with domains it trusts less names its server by
// ServerID.
func DefaultServer() spiffeid.Matcher {
	return func(actual spiffeid.ID) error {
		if actual.Path() != ServerPath {
			return fmt.Errorf("the server is %s, whose path is not %s", actual, ServerPath)
		}
		return nil
	}
}

type clientCredentials struct {
	common
	src       X509Source
	authorize spiffeid.Matcher
}

// NewClientCredentials returns credentials for the client's side: TLS 1.3 with
// the source's SVID, to a server that shows an X.509-SVID that chains to a
// bundle of the source and whose ID authorize accepts. The host name is not
// looked at. The connection carries an *AuthInfo. The source must outlive the
// credentials.
func NewClientCredentials(src X509Source, authorize spiffeid.Matcher) (credentials.TransportCredentials, error) {
	var errs []error
	if src == nil {
		errs = append(errs, errors.New("no source of SVIDs"))
	}
	if authorize == nil {
		errs = append(errs, errors.New("nothing says which server is meant"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("client credentials: %w", err)
	}
	return &clientCredentials{src: src, authorize: authorize}, nil
}

// ClientHandshake blocks until the server is verified or ctx is done. That it
// succeeds does not say that the server accepted the client: in TLS 1.3 that
// shows with the first Read.
func (c *clientCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var (
		server *Caller
		own    spiffeid.ID
	)
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		SessionTicketsDisabled: true,
		ServerName:             host,
		InsecureSkipVerify:     true, //nolint:gosec // VerifyConnection verifies the SVID; there is no host name to check
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			svid, err := c.src.GetX509SVID()
			if err != nil {
				return nil, fmt.Errorf("own SVID: %w", err)
			}
			own = svid.ID
			return certificate(svid)
		},
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			server, err = c.verify(state)
			return err
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return &clientConn{Conn: conn, own: own}, authInfo(server, conn), nil
}

func (c *clientCredentials) verify(state tls.ConnectionState) (*Caller, error) {
	if err := checkALPN(state); err != nil {
		return nil, err
	}
	server, err := verify(state.PeerCertificates, c.src, x509.ExtKeyUsageServerAuth)
	if err == nil {
		err = c.authorize(server.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServerRefused, err)
	}
	return server, nil
}

func (*clientCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials used by a server")
}

func (c *clientCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// Who did not accept whom when a connection could not be made.
var (
	ErrServerRefused = errors.New("the server's identity is not accepted")
	ErrCallerRefused = errors.New("the server does not accept our identity")
)

// HandshakeCause returns ErrServerRefused or ErrCallerRefused if err, as a call
// or a handshake returned it, comes from one of them, else nil. A server that
// refuses the client's certificate cannot always say so before the connection is
// gone: then it is nil too.
func HandshakeCause(err error) error {
	if err == nil {
		return nil
	}
	for _, cause := range []error{ErrServerRefused, ErrCallerRefused} {
		// gRPC hands an error of the handshake on as text only.
		if errors.Is(err, cause) || status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), cause.Error()) {
			return cause
		}
	}
	return nil
}

// clientConn says in words what an alert means that is the server's first word
// after the handshake.
type clientConn struct {
	*tls.Conn
	own      spiffeid.ID
	answered atomic.Bool
}

func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.answered.Load() {
		c.answered.Store(true)
	}
	// This is how crypto/tls marks an alert of the other side.
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" && !c.answered.Load() {
		err = fmt.Errorf("%w %s: %w", ErrCallerRefused, c.own, err)
	}
	return n, err
}

func (c *clientConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) && !c.answered.Load() {
		// The server has hung up. Its alert may lie there unread: gRPC writes as
		// soon as it can and would report the broken pipe. This cannot block.
		if _, said := c.Read(make([]byte, 1)); errors.Is(said, ErrCallerRefused) {
			err = said
		}
	}
	return n, err
}
