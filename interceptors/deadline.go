package interceptors

import "context"

// deadline bounds the call in time, also one that brought no deadline.
func (c *Chain) deadline(call *Call) error {
	limit := c.cfg.MaxCallDuration
	if call.streams {
		limit = c.cfg.MaxStreamDuration
	}
	call.ctx, call.cancel = context.WithTimeout(call.ctx, limit)
	return nil
}
