package interceptors

import (
	"math"
	"net"
	"net/netip"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// maxModelBytes bounds the model name that policy and record see. It is longer
// than any name that passes validation.
const maxModelBytes = 256

// authorizeMethod refuses what the caller may not do on any model, before a
// message is read.
func (c *Chain) authorizeMethod(call *Call) error {
	if call.method == nil {
		call.index = c.cfg.Policy()
		return Refuse(MethodUnknown, "no such method")
	}
	action := call.method.Action
	if call.method.Waivable {
		action = policy.None
	}
	return c.authorize(call, call.policyRequest(action, ""), false)
}

// authorizeMessage decides caller × user × action × model, by the policy of now.
func (c *Chain) authorizeMessage(call *Call, m *Message) error {
	call.model = m.Subject.Model
	action := call.method.Action
	if m.Subject.AnyRole && call.method.Waivable {
		action = policy.None
	}
	request := call.policyRequest(action, call.model)
	request.Rows = max(m.Subject.Rows, 0)
	return c.authorize(call, request, true)
}

// authorize decides by the policy of now. Begun is false before the first message.
func (c *Chain) authorize(call *Call, request policy.Request, begun bool) error {
	request.Time = c.cfg.Now()
	d := c.decide(call, request)
	// Before the first message an allowance only says that it may become one.
	if begun || !d.Allowed {
		call.shadow.compare(c.cfg.Shadow(), request, d)
	}
	if !d.Allowed {
		return c.denied(call.User, d, begun)
	}
	call.grant = d.Grant
	return nil
}

// decide decides and keeps the decision, for the record and for Recheck. It holds
// the lock from before it reads the policy: a Recheck with a newer one waits, and
// then finds the decision.
func (c *Chain) decide(call *Call, request policy.Request) policy.Decision {
	call.mu.Lock()
	defer call.mu.Unlock()
	call.index = c.cfg.Policy()
	call.request, call.decision, call.decidedBy = request, decide(call.index, request), call.index
	// Callers claim rows as they like: the sum must not turn over.
	call.rowsReceived = min(call.rowsReceived, math.MaxInt64-request.Rows) + request.Rows
	return call.decision
}

// decide decides on a request. One without a model is about a method that has
// none, or its message does not say which: then no handler runs one for it.
func decide(index *policy.Index, request policy.Request) policy.Decision {
	if request.Model == "" {
		return index.MayEver(request)
	}
	return index.Decide(request)
}

// denied is the refusal that belongs to a decision on a call for the user. Who is blocked only now
// (begun) was let in: its identity has been revoked.
func (c *Chain) denied(u *identity.User, d policy.Decision, begun bool) *Refusal {
	detail := c.detail(u, d)
	blocked := d.Outcome == policy.CallerBlocked || d.Outcome == policy.AddressBlocked
	switch {
	case blocked && begun:
		return Refuse(IdentityRevoked, "%s", detail)
	case blocked:
		return Refuse(CallerBlocked, "%s", detail)
	}
	return Refuse(PolicyDenied, "%s", detail)
}

func (c *Call) policyRequest(action policy.Action, model string) policy.Request {
	return policy.Request{Caller: c.Caller.ID, Address: PeerAddress(c.Peer), User: c.User, Action: action, Model: model}
}

// PeerAddress is the IP address of a connection's peer; the zero Addr if it has
// none.
func PeerAddress(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
