package interceptors

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// admitStream takes one of the caller's stream places, held to the call's end.
func (c *Chain) admitStream(call *Call) error {
	if !call.streams {
		return nil
	}
	place, err := c.cfg.Quota.OpenStream(call.Caller.ID.String(), call.grant.Key, quota.Limits(call.grant.Limits))
	if err != nil {
		return exceeded(err)
	}
	call.place = place
	return nil
}

// meter takes a message's request and rows from the caller's quota.
func (c *Chain) meter(call *Call, m *Message) error {
	rows := max(m.Subject.Rows, 0)
	reservation, err := c.cfg.Quota.Reserve(call.Caller.ID.String(), call.grant.Key, quota.Limits(call.grant.Limits), rows)
	if err != nil {
		return exceeded(err)
	}
	call.mu.Lock()
	defer call.mu.Unlock()
	call.rowsReceived += rows
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
