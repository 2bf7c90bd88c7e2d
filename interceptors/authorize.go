package interceptors

import (
	"net"
	"net/netip"

	"github.com/sallyport/sallyport/interceptors/policy"
)

// maxModelBytes bounds the model name that policy and record see. It is longer
// than any name that passes validation.
const maxModelBytes = 256

// authorizeMethod refuses what the caller may not do on any model, before a
// message is read.
func (c *Chain) authorizeMethod(call *Call) error {
	call.index = c.cfg.Policy()
	if call.method == nil {
		return Refuse(MethodUnknown, "no such method")
	}
	action := call.method.Action
	if call.method.Waivable {
		action = policy.None
	}
	return call.decided(call.index.MayEver(call.policyRequest(action, "")))
}

// authorizeMessage decides caller × action × model, by the policy of now.
func (c *Chain) authorizeMessage(call *Call, m *Message) error {
	call.index = c.cfg.Policy()
	call.model = m.Subject.Model
	action := call.method.Action
	if m.Subject.AnyRole && call.method.Waivable {
		action = policy.None
	}
	request := call.policyRequest(action, call.model)
	if call.model == "" {
		// The method has no model, or the message does not say it: then no
		// handler runs one for it.
		return call.decided(call.index.MayEver(request))
	}
	return call.decided(call.index.Decide(request))
}

func (c *Call) policyRequest(action policy.Action, model string) policy.Request {
	return policy.Request{Caller: c.Caller.ID, Address: PeerAddress(c.Peer), Action: action, Model: model}
}

// decided keeps the grant of a decision or turns it into a refusal.
func (c *Call) decided(d policy.Decision) error {
	if d.Allowed {
		c.grant = d.Grant
		return nil
	}
	reason := PolicyDenied
	if d.Outcome == policy.CallerBlocked || d.Outcome == policy.AddressBlocked {
		reason = CallerBlocked
	}
	return Refuse(reason, "%s", d.Detail)
}

// PeerAddress is the IP address of a connection's peer; the zero Addr if it has
// none.
func PeerAddress(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
