package interceptors

import (
	"context"
	"time"
)

// deadline bounds the call in time, also one that brought no deadline.
func (c *Chain) deadline(call *Call) error {
	limit := c.cfg.MaxCallDuration
	if call.streams {
		limit = c.cfg.MaxStreamDuration
	}
	end := time.Now().Add(limit)
	if d, ok := call.ctx.Deadline(); ok && d.Before(end) {
		return nil
	}
	call.ctx, call.cancel = context.WithDeadline(call.ctx, end)
	return nil
}
