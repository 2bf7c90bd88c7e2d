package interceptors

import (
	"errors"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// unpaid limits the calls of one caller that are refused without having taken
// anything from a quota: callers without a role have none. Each is recorded all
// the same, so without a limit one certificate could fill the disk.
var unpaid = quota.Limits{RequestsPerSecond: 20, RequestBurst: 200, RowBurst: 1, MaxRowsPerRequest: 1}

// maxThrottle is the longest that such a refusal is held back.
const maxThrottle = 5 * time.Second

// throttle holds a refusal back while its caller is over the limit. It waits
// also if the caller is gone: the call keeps its place among those of its
// connection, and a caller that gives up and comes again does not come faster.
func (c *Chain) throttle(call *Call) {
	if call.Caller == nil || call.paid {
		return
	}
	c.holdBack(call, nil)
}

// throttleMessage holds a stream back whose message a quota has refused: it goes
// on, and the next message would be refused as cheaply.
func (c *Chain) throttleMessage(call *Call, err error) {
	var refusal *Refusal
	if call.method.streams && errors.As(err, &refusal) && (refusal.Quota != nil || refusal.Reason == QuotaUnavailable) {
		c.holdBack(call, call.ctx.Done())
	}
}

// holdBack takes one of the caller's free refusals, or waits for one, no longer
// than maxThrottle or until enough is closed.
func (c *Chain) holdBack(call *Call, enough <-chan struct{}) {
	for end := time.Now().Add(maxThrottle); ; {
		_, err := c.cfg.Quota.Reserve(call.Caller.ID.String(), "\x00refused", unpaid, 0)
		var e *quota.Exceeded
		if !errors.As(err, &e) || e.RetryAfter <= 0 {
			return
		}
		wait := min(e.RetryAfter, time.Until(end))
		if wait <= 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-enough:
			timer.Stop()
			return
		}
	}
}
