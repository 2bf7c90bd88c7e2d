package interceptors

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// live knows the open calls of every connection, so that they end when their
// right to go on does: also one that waits for a message that does not come.
type live struct {
	connections sync.Map // *identity.Session → *connection
}

// connection is the open calls of one connection.
type connection struct {
	mu    sync.Mutex // guards what follows
	calls map[*Call]struct{}
	ended bool // whether the session has
}

// begin takes a call that arrived on the session's connection. It ends with the
// session.
func (l *live) begin(call *Call, session *identity.Session) {
	found, ok := l.connections.Load(session)
	if !ok {
		if found, ok = l.connections.LoadOrStore(session, &connection{calls: make(map[*Call]struct{})}); !ok {
			session.AfterEnd(func() {
				l.connections.Delete(session)
				found.(*connection).end(session.Err())
			})
		}
	}
	c := found.(*connection)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return // the gates refuse it
	}
	call.connection = c
	c.calls[call] = struct{}{}
}

// finish forgets a call that has ended.
func (c *connection) finish(call *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, call)
}

// end ends every call because the session has ended.
func (c *connection) end(why error) {
	refusal := sessionEnded(why)
	if refusal == nil {
		return // the transport ends the calls of a closed connection itself
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for call := range c.calls {
		call.end(refusal)
	}
}

// sessionEnded is the refusal that belongs to Session.Err; nil if the session
// goes on or its connection was just closed.
func sessionEnded(err error) *Refusal {
	switch {
	case errors.Is(err, identity.ErrExpired):
		return &Refusal{Reason: IdentityExpired, Cause: err}
	case errors.Is(err, identity.ErrRevoked):
		return &Refusal{Reason: IdentityRevoked, Cause: err}
	}
	return nil
}

// open are the calls that are open now.
func (l *live) open() []*Call {
	var open []*Call
	l.connections.Range(func(_, value any) bool {
		c := value.(*connection)
		c.mu.Lock()
		defer c.mu.Unlock()
		for call := range c.calls {
			open = append(open, call)
		}
		return true
	})
	return open
}

// Recheck asks the policy of now about every open call, as if its last message
// came again, and ends those that it no longer allows. It returns how many that
// are. Whoever puts another policy in force calls it.
func (c *Chain) Recheck() int {
	index, now, ended := c.cfg.Policy(), c.cfg.Now(), 0
	for _, call := range c.live.open() {
		if c.recheck(call, index, now) {
			ended++
		}
	}
	return ended
}

// recheck ends the call if the policy no longer allows it, and tells whether.
func (c *Chain) recheck(call *Call, index *policy.Index, now time.Time) bool {
	call.mu.Lock()
	defer call.mu.Unlock()
	if call.settled || call.decision.Outcome != policy.Allowed {
		return false // over, not yet at the gates, or refused
	}
	request := call.request
	request.Time = now
	d := decide(index, request)
	if d.Allowed {
		return false
	}
	call.decision, call.decidedBy = d, index
	call.end(c.denied(call.User, d, true))
	return true
}

// RecheckUsers verifies the token of every open call that has one again, and ends
// the calls whose token is no longer accepted: its key may have been withdrawn. It
// returns how many those are. It may wait for an issuer's keys, for tokenWait at
// most for each token.
func (c *Chain) RecheckUsers(ctx context.Context) int {
	calls := make(map[string][]*Call)
	for _, call := range c.live.open() {
		call.mu.Lock()
		if call.token != "" && !call.settled {
			calls[call.token] = append(calls[call.token], call)
		}
		call.mu.Unlock()
	}
	ended := 0
	for token, of := range calls {
		refusal := c.recheckToken(ctx, token)
		if refusal == nil || ctx.Err() != nil {
			continue
		}
		for _, call := range of {
			call.end(refusal)
			ended++
		}
	}
	return ended
}

// tokenWait bounds the wait for keys in a recheck.
const tokenWait = time.Second

func (c *Chain) recheckToken(ctx context.Context, token string) *Refusal {
	ctx, cancel := context.WithTimeout(ctx, tokenWait)
	defer cancel()
	_, refusal := c.verifyToken(ctx, token)
	return refusal
}
