package interceptors

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// admitStream takes one of the caller's stream places, held to the call's end.
// Before the model is known it is one of all the roles that allow the method.
func (c *Chain) admitStream(call *Call) error {
	if !call.method.streams {
		return nil
	}
	place, err := c.cfg.Quota.OpenStream(call.Caller.ID.String(), call.grant.Key, quota.Limits(call.grant.Limits))
	if err != nil {
		return exceeded(err)
	}
	if call.place != nil {
		call.place.Close()
	}
	call.place, call.placeKey = place, call.grant.Key
	return nil
}

// meter takes a message's request and rows from the caller's quota.
func (c *Chain) meter(call *Call, m *Message) error {
	if call.method.streams && call.grant.Key != call.placeKey {
		// The message named a model that fewer roles allow: their places count.
		if err := c.admitStream(call); err != nil {
			return err
		}
	}
	rows := max(m.Subject.Rows, 0)
	call.mu.Lock()
	defer call.mu.Unlock()
	reservation, err := c.cfg.Quota.Reserve(call.Caller.ID.String(), call.grant.Key, quota.Limits(call.grant.Limits), rows)
	if err != nil {
		return exceeded(err)
	}
	call.paid = true
	call.reserved.Join(&reservation)
	return nil
}

// exceeded is the refusal that belongs to an error of the limiter.
func exceeded(err error) error {
	var e *quota.Exceeded
	if !errors.As(err, &e) {
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
	}
	return refusal
}
