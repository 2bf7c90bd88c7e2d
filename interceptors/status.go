package interceptors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Status is the status that err has for the caller of this call: what leaves
// at the end of the call, and what answers one batch of a stream.
func (c *Call) Status(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	return refusalOf(err).status(c.ID)
}

// refusalOf turns any error into a refusal; this is where errors that are not
// ours lose their text. Only a *Refusal says why by itself.
func refusalOf(err error) *Refusal {
	if err == nil {
		return nil
	}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.Is(err, context.DeadlineExceeded):
		return &Refusal{Reason: DeadlineExceeded}
	case errors.Is(err, context.Canceled):
		return &Refusal{Reason: Cancelled}
	}
	reason := Internal
	// The services that come with grpc-go, and its transport, answer with
	// statuses of their own.
	if st, ok := status.FromError(err); ok {
		switch st.Code() { //nolint:exhaustive // every other code is a fault of ours and stays INTERNAL
		case codes.NotFound:
			reason = ServiceNotFound
		case codes.InvalidArgument:
			reason = RequestInvalid
		case codes.Unimplemented:
			reason = MethodUnknown
		case codes.DeadlineExceeded:
			reason = DeadlineExceeded
		case codes.Canceled, codes.Unavailable:
			reason = Cancelled
		}
	}
	return &Refusal{Reason: reason, Cause: err}
}

// finish settles the call and returns the refusal it ended with, or nil.
func (c *Call) finish(err error) *Refusal {
	c.mu.Lock()
	c.settled = true
	c.mu.Unlock()
	c.settleSent()
	c.mu.Lock()
	c.reserved.Close()
	c.mu.Unlock()
	if c.place != nil {
		c.place.Close()
	}
	if c.connection != nil {
		c.connection.finish(c)
	}
	for _, timer := range []*time.Timer{c.limit, c.userEnd} {
		if timer != nil {
			timer.Stop()
		}
	}
	// An answer that is ready does not leave either: who may no longer be here gets
	// none.
	if refusal := c.forced(); refusal != nil {
		return refusal
	}
	if err == nil {
		return nil
	}
	// What failed because the call's time was up failed for that reason,
	// whatever it says itself.
	var refusal *Refusal
	if !errors.As(err, &refusal) && c.ctx.Err() != nil {
		return &Refusal{Reason: c.ended(), Cause: err}
	}
	return refusalOf(err)
}

// ended is why the call's context has ended. At its deadline the transport
// cancels a call, too.
func (c *Call) ended() Reason {
	if d, ok := c.ctx.Deadline(); ok && !time.Now().Before(d) {
		return DeadlineExceeded
	}
	return Cancelled
}

// recovered turns a panic into an error for the operator, stack included.
func (c *Chain) recovered(_ context.Context, p any) error {
	return Panicked(p)
}

// Panicked is the error for a value that recover returned. A handler that
// starts goroutines uses it there.
func Panicked(p any) error {
	return &Refusal{Reason: Internal, Cause: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
}

// logRefusal leaves a line for the operator; the record has the same story.
func (c *Chain) logRefusal(call *Call, refusal *Refusal) {
	level := slog.LevelInfo
	switch refusal.Reason { //nolint:exhaustive // the rest is a caller's doing
	case Internal, AuditUnavailable, QuotaUnavailable:
		level = slog.LevelError
	case Overloaded, ModelNotReady:
		level = slog.LevelWarn
	}
	if !c.cfg.Log.Enabled(call.ctx, level) {
		return
	}
	caller := ""
	if call.Caller != nil {
		caller = call.Caller.ID.String()
	}
	c.cfg.Log.LogAttrs(call.ctx, level, "call refused",
		slog.String("call_id", call.ID),
		slog.String("caller", caller),
		slog.String("peer", address(call.Peer)),
		slog.String("method", call.FullMethod),
		slog.String("model", call.model),
		slog.String("reason", string(refusal.Reason)),
		slog.String("detail", clip(refusal.Error(), maxDetailBytes)))
}
