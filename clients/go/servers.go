package sallyport

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"

	"github.com/sallyport/sallyport/identity"
)

// servers are those at the other end of a generation's connections. A connection
// ends with the identity that the server showed when it was made. They are known
// by their address.
type servers struct {
	bundles x509bundle.Source
	log     *slog.Logger
	changed chan struct{} // gets a value when a handshake has ended

	mu      sync.Mutex // guards what follows
	live    map[*serverConn]struct{}
	tried   map[string]bool // had a handshake that has ended
	refused map[string]bool // the last one ended so for the server's identity
	last    error           // of the last handshake
}

func newServers(bundles x509bundle.Source, log *slog.Logger) *servers {
	return &servers{
		bundles: bundles, log: log, changed: make(chan struct{}, 1),
		live: make(map[*serverConn]struct{}), tried: make(map[string]bool), refused: make(map[string]bool),
	}
}

// serverConn is a connection to one of them.
type serverConn struct {
	net.Conn
	raw     net.Conn
	address string
	servers *servers
	certs   []*x509.Certificate
	moveAt  time.Time
	end     time.Time // of the server's identity
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

// connected is how many connections there are.
func (s *servers) connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// addresses are those of the servers that are connected; end is when the identity
// of the first of them does.
func (s *servers) addresses() (all []string, end time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end = time.Now().Add(far)
	for c := range s.live {
		all = append(all, c.address)
		if c.end.Before(end) {
			end = c.end
		}
	}
	return all, end
}

// triedAll tells whether every one of the addresses had its handshake.
func (s *servers) triedAll(addresses []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range addresses {
		if !s.tried[a] {
			return false
		}
	}
	return true
}

// others tells whether any of so many addresses is not refused for its identity.
func (s *servers) others(addresses int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return addresses > len(s.refused)
}

// judge notes how a handshake ended. A server that is not who it should be is
// tried again and again; the log says it once until that changes.
func (s *servers) judge(ctx context.Context, address string, err error) {
	refused := errors.Is(err, identity.ErrServerRefused)
	s.mu.Lock()
	s.last = err
	s.tried[address] = true
	again := s.refused[address]
	if refused {
		s.refused[address] = true
	} else {
		delete(s.refused, address)
	}
	s.mu.Unlock()
	if refused && !again {
		s.log.LogAttrs(ctx, slog.LevelWarn, "a server is not used for its identity", slog.String("address", address), slog.Any("error", err))
	}
}

// signal says that a handshake has ended.
func (s *servers) signal() {
	select {
	case s.changed <- struct{}{}:
	default: // it will look anyway
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
		Conn: conn, raw: raw, address: raw.RemoteAddr().String(), servers: s, certs: info.State.PeerCertificates,
		// By then a server has a newer SVID, if it gets one at half of its life.
		moveAt: time.Now().Add(max(left*3/4, minMove)), end: info.Caller.NotAfter,
	}
	c.expiry = time.AfterFunc(left, c.abort)
	s.mu.Lock()
	s.live[c] = struct{}{}
	s.mu.Unlock()
	c.recheck() // the bundles may have changed before it was there for recheck
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
	defer c.servers.signal()
	c.servers.judge(ctx, raw.RemoteAddr().String(), err)
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
