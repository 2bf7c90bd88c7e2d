package interceptors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// admitStream takes one of the caller's stream places, held to the call's end.
// Before the model is known it is one of all the roles that allow the method.
func (c *Chain) admitStream(call *Call) error {
	if !call.method.streams {
		return nil
	}
	g := c.granted(call)
	place, err := c.cfg.Quota.AcquireStream(call.ctx, call.Caller.ID.String(), call.grant.Key, &g.limits)
	if err != nil {
		return exceeded(err)
	}
	if call.place != nil {
		call.place.Close()
	}
	call.place, call.placeKey = place, call.grant.Key
	return nil
}

// meter takes a message's request, rows and bytes from the caller's quota, and
// settles what was sent since the message before. It may ask the store that
// replicas share, and so holds no lock.
func (c *Chain) meter(call *Call, m *Message) error {
	if call.method.streams && call.grant.Key != call.placeKey {
		// The message named a model that fewer roles allow: their places count.
		if err := c.admitStream(call); err != nil {
			return err
		}
	}
	g := c.granted(call)
	call.settleSent()
	var standing *quota.Standing
	if !call.headed.Load() {
		standing = &call.standing
	}
	reservation, err := c.cfg.Quota.Acquire(call.ctx, call.Caller.ID.String(), call.grant.Key, &g.limits,
		quota.Cost{Rows: max(m.Subject.Rows, 0), Bytes: m.bytes}, standing)
	if standing != nil {
		tell := g
		if err == nil && !standing.Known {
			tell = nil // it was told a moment ago
		}
		// It fails only for a stream that is gone, and then so does all that follows.
		_ = call.header(call.gated.ServerStream, tell)
	}
	if err != nil {
		return exceeded(err)
	}
	call.mu.Lock()
	defer call.mu.Unlock()
	if call.settled { // the handler has returned and left this to another goroutine
		reservation.Close()
		return &Refusal{Reason: Cancelled}
	}
	call.paid = true
	call.reserved.Join(&reservation)
	return nil
}

// settleSent counts what was sent since it was last counted against the budgets.
func (c *Call) settleSent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := c.bytesSent.Load()
	c.reserved.Sent(int64(sent - c.sentSettled)) //nolint:gosec // less than was ever sent
	c.sentSettled = sent
}

// retryStore is when to try again while the store of quotas does not answer.
const retryStore = time.Second

// exceeded is the refusal that belongs to an error of the limiter.
func exceeded(err error) error {
	var away *quota.Unavailable
	var e *quota.Exceeded
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &away):
		return &Refusal{Reason: QuotaUnavailable, Cause: err, RetryAfter: retryStore}
	case !errors.As(err, &e):
		return &Refusal{Reason: Internal, Cause: err}
	}
	refusal := &Refusal{
		Cause:      err,
		RetryAfter: e.RetryAfter,
		Quota:      &errdetails.QuotaFailure_Violation{Subject: e.Limit.String(), Description: fmt.Sprintf("at most %d at once", e.Max)},
	}
	switch e.Limit {
	case quota.Requests:
		refusal.Reason = QuotaRequests
	case quota.Rows, quota.RowsPerRequest:
		refusal.Reason = QuotaRows
	case quota.Streams:
		refusal.Reason = QuotaStreams
	case quota.Callers:
		refusal.Reason = Overloaded
	default:
		refusal.Reason = QuotaBudget
		refusal.Quota.Description = fmt.Sprintf("the budget is %s, and not enough of it is left until the period ends", e.Most())
		if e.RetryAfter == 0 {
			refusal.Quota.Description = fmt.Sprintf("the budget is %s: this never fits", e.Most())
		}
	}
	return refusal
}
