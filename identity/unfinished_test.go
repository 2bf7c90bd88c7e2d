package identity_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
)

// A peer that speaks no TLS, leaves or waits ends its handshake all the same.
func TestServerHandshakeUnfinished(t *testing.T) {
	for _, tt := range []struct {
		name    string
		act     func(net.Conn)
		refused func(error) bool
	}{
		{
			name:    "leaves",
			act:     func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() },
			refused: func(err error) bool { return errors.Is(err, io.EOF) },
		},
		{
			name:    "plaintext",
			act:     func(c net.Conn) { _, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") },
			refused: func(err error) bool { return strings.Contains(err.Error(), "does not look like a TLS handshake") },
		},
		{
			name: "waits before its hello",
			act:  func(net.Conn) {},
			refused: func(err error) bool {
				timeout, ok := errors.AsType[net.Error](err)
				return ok && timeout.Timeout()
			},
		},
		{
			name: "waits within its hello",
			act:  func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1, 2, 0, 1, 0}) },
			refused: func(err error) bool {
				timeout, ok := errors.AsType[net.Error](err)
				return ok && timeout.Timeout()
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ca := identitytest.NewCA(t, "sallyport.test")
			s := serve(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()),
				identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home}},
				grpc.ConnectionTimeout(time.Second))
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			tt.act(conn)
			_, _ = io.Copy(io.Discard, conn) // ends when the server hangs up
			refusals := s.stop()
			if len(refusals) != 1 || !tt.refused(refusals[0].Err) {
				t.Errorf("refusals %v", refusals)
			}
		})
	}
}

// gRPC tells a peer that just left from one that failed by comparing with io.EOF.
func TestServerHandshakeReturnsEOF(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	creds, err := identity.NewServerCredentials(identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()),
		identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home}, Refused: func(identity.Refusal) {}})
	if err != nil {
		t.Fatal(err)
	}
	conn, peer := net.Pipe()
	_ = peer.Close()
	if _, _, err := creds.ServerHandshake(conn); err != io.EOF { //nolint:errorlint // as gRPC does
		t.Errorf("error %#v", err)
	}
}
