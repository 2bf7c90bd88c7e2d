package interceptors

// identify refuses a call on a connection on which no handshake left a caller.
func (c *Chain) identify(call *Call) error {
	if call.Caller == nil {
		return Refuse(IdentityMissing, "the connection has no AuthInfo of package identity")
	}
	return c.identified(call, nil)
}

// identified refuses a caller whose identity has ended since the handshake.
func (c *Chain) identified(call *Call, _ *Message) error {
	if call.Caller.Expired(c.cfg.Now()) {
		return Refuse(IdentityExpired, "the SVID %s of %s ended at %s", call.Caller.Serial, call.Caller.ID, call.Caller.NotAfter)
	}
	return nil
}
