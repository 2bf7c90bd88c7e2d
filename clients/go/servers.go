package sallyport

import (
	"context"
	"crypto/x509"
	"net"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"

	"github.com/sallyport/sallyport/identity"
)

// servers are those at the other end of a generation's connections. A connection
// ends with the identity that the server showed when it was made.
type servers struct {
	bundles x509bundle.Source
	changed chan struct{} // gets a value when there is another connection

	mu   sync.Mutex // guards what follows
	live map[*serverConn]struct{}
	last error // of the last handshake
}

func newServers(bundles x509bundle.Source) *servers {
	return &servers{bundles: bundles, changed: make(chan struct{}, 1), live: make(map[*serverConn]struct{})}
}

// serverConn is a connection to one of them.
type serverConn struct {
	net.Conn
	raw     net.Conn
	servers *servers
	certs   []*x509.Certificate
	moveAt  time.Time
	expiry  *time.Timer
}

// Close ends the connection.
func (c *serverConn) Close() error {
	c.expiry.Stop()
	c.servers.mu.Lock()
	delete(c.servers.live, c)
	c.servers.mu.Unlock()
	return c.Conn.Close()
}

// abort ends the connection under TLS, which would wait for a peer that does not
// read. What was under way over it fails.
func (c *serverConn) abort() { _ = c.raw.Close() }

// far is a time that does not come.
const far = 24 * time.Hour

// moveAt is when calls should leave the generation, because the identity of a
// server ends then soon.
func (s *servers) moveAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Now().Add(far)
	for c := range s.live {
		if c.moveAt.Before(at) {
			at = c.moveAt
		}
	}
	return at
}

// recheck ends the connections to servers that the bundles no longer verify.
func (s *servers) recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.live {
		c.recheck()
	}
}

func (c *serverConn) recheck() {
	if _, _, err := x509svid.Verify(c.certs, c.servers.bundles); err != nil {
		c.abort()
	}
}

func (s *servers) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// begin takes a connection that was made.
func (s *servers) begin(conn, raw net.Conn, info *identity.AuthInfo) net.Conn {
	left := time.Until(info.Caller.NotAfter)
	c := &serverConn{
		Conn: conn, raw: raw, servers: s, certs: info.State.PeerCertificates,
		// By then a server has a newer SVID, if it gets one at half of its life.
		moveAt: time.Now().Add(max(left*3/4, minMove)),
	}
	c.expiry = time.AfterFunc(left, c.abort)
	s.mu.Lock()
	s.live[c] = struct{}{}
	s.mu.Unlock()
	c.recheck() // the bundles may have changed before it was there for recheck
	select {
	case s.changed <- struct{}{}:
	default: // it will look anyway
	}
	return c
}

// serverCredentials tell servers of every connection.
type serverCredentials struct {
	credentials.TransportCredentials
	servers *servers
}

// ClientHandshake blocks until the server is verified or ctx is done.
func (c *serverCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	err = markExpired(err)
	c.servers.mu.Lock()
	c.servers.last = err
	c.servers.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	if auth, ok := info.(*identity.AuthInfo); ok {
		conn = c.servers.begin(conn, raw, auth)
	}
	return conn, info, nil
}

// Clone is for a connection of the same generation.
func (c *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{c.TransportCredentials.Clone(), c.servers}
}
