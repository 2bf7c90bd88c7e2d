package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Why a session has ended, in Session.Err.
var (
	// ErrExpired: the peer's SVID has expired.
	ErrExpired = errors.New("the SVID has expired")
	// ErrRevoked: the peer would no longer be let in. It wraps why.
	ErrRevoked = errors.New("the identity no longer holds")
)

// ErrTooManyConnections is in Refusal.Err of a caller that has as many connections
// open as it may.
var ErrTooManyConnections = errors.New("too many connections of one caller")

// farewell is how long a connection stays open after its session has ended, for
// the last words of its RPCs. Nothing that arrives in it is served.
const farewell = 200 * time.Millisecond

// Session is one live connection of a server, from its handshake until its
// identity ends or it is closed. It is safe for concurrent use.
type Session struct {
	caller *Caller
	raw    net.Conn
	certs  []*x509.Certificate
	// bundle verified the caller the last time.
	bundle atomic.Pointer[x509bundle.Bundle]
	// ctx is done when the session has ended; its cause is why.
	ctx    context.Context
	cancel context.CancelCauseFunc
	expiry *time.Timer

	mu   sync.Mutex // guards ends
	ends time.Time  // when expiry ends it
}

// Caller is who is at the other end.
func (s *Session) Caller() *Caller { return s.caller }

// Peer is the address at the other end.
func (s *Session) Peer() net.Addr { return s.raw.RemoteAddr() }

// Err is nil while the session goes on. Then it is ErrExpired, wraps ErrRevoked,
// or is net.ErrClosed if the connection was closed for another reason.
func (s *Session) Err() error {
	if s.ctx.Err() == nil {
		return nil
	}
	return context.Cause(s.ctx)
}

// AfterEnd runs f once, on a goroutine of its own, when the session has ended; at
// once if it has.
func (s *Session) AfterEnd(f func()) { context.AfterFunc(s.ctx, f) }

// end ends the session and, a little later, its connection, on raw: closing TLS
// properly would wait for a peer that does not read. It is false if the session
// had ended before.
func (s *Session) end(why error) bool {
	s.cancel(why)
	if s.Err() != why { //nolint:errorlint // this very one
		return false
	}
	time.AfterFunc(farewell, func() { _ = s.raw.Close() })
	return true
}

// endBy ends the session at a time, if that is before its SVID ends.
func (s *Session) endBy(end time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end.Before(s.ends) {
		s.ends = end
		s.expiry.Reset(time.Until(end))
	}
}

// sessions are the live connections of a server.
type sessions struct {
	maxPerCaller int // 0 is no bound

	mu   sync.Mutex // guards what follows
	live map[*Session]struct{}
	// callers is how many of them each caller has.
	callers map[spiffeid.ID]int
}

// begin adds the session of a connection over raw, which end ends. The error is
// that the caller has as many as it may.
func (ss *sessions) begin(caller *Caller, raw net.Conn, certs []*x509.Certificate, bundle *x509bundle.Bundle) (*Session, error) {
	s := &Session{caller: caller, raw: raw, certs: certs, ends: caller.NotAfter}
	s.bundle.Store(bundle)
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	ss.mu.Lock()
	defer ss.mu.Unlock()
	// Counted and taken under one lock: of two handshakes for the last place one
	// gets it.
	if n := ss.callers[caller.ID]; ss.maxPerCaller > 0 && n >= ss.maxPerCaller {
		s.cancel(ErrTooManyConnections)
		return nil, fmt.Errorf("%w: %s has %d open, which is all that it may", ErrTooManyConnections, caller.ID, n)
	}
	if ss.live == nil {
		ss.live, ss.callers = make(map[*Session]struct{}), make(map[spiffeid.ID]int)
	}
	ss.live[s] = struct{}{}
	ss.callers[caller.ID]++
	s.expiry = time.AfterFunc(time.Until(caller.NotAfter), func() { s.end(ErrExpired) })
	return s, nil
}

// finish ends the session because its connection is closed. Further calls change
// nothing.
func (ss *sessions) finish(s *Session) {
	s.expiry.Stop()
	s.cancel(net.ErrClosed)
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if _, ok := ss.live[s]; !ok {
		return
	}
	delete(ss.live, s)
	if ss.callers[s.caller.ID]--; ss.callers[s.caller.ID] == 0 {
		delete(ss.callers, s.caller.ID)
	}
}

// count is how many sessions live now.
func (ss *sessions) count() int {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return len(ss.live)
}

// all are the sessions that live now.
func (ss *sessions) all() []*Session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	all := make([]*Session, 0, len(ss.live))
	for s := range ss.live {
		all = append(all, s)
	}
	return all
}

// sessionConn is the connection of a session, which ends with it.
type sessionConn struct {
	net.Conn
	session  *Session
	sessions *sessions
}

// Close closes the connection and ends the session.
func (c *sessionConn) Close() error {
	c.sessions.finish(c.session)
	return c.Conn.Close()
}
