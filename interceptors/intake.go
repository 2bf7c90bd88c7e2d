package interceptors

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/identity"
)

// intake is the early door. Every RPC whose headers are in order passes it, on
// the connection's reader: it never blocks. It opens the RPC's Call, bounds it
// in time, and sees to it that the call is recorded also if grpc-go ends it
// before the gates have it: because its deadline has passed, its encoding is not
// installed or its caller is gone.
type intake struct {
	chain *Chain
	// waiting counts the calls that the gates do not have yet.
	waiting sync.WaitGroup
	// limit bounds the records of calls that end before the gates; unrecorded
	// counts those beyond it.
	limit      *rate.Limiter
	unrecorded atomic.Uint64
}

// open is the tap handle. It refuses the paths that grpc-go would answer by
// itself, past every interceptor (CVE-2026-33186); all other unknown ones end in
// the authorize stage.
func (in *intake) open(ctx context.Context, info *tap.Info) (context.Context, error) {
	call := newCall(ctx, info.FullMethodName, in.chain.cfg.Now())
	call.method = in.chain.methods[info.FullMethodName]
	if p, ok := peer.FromContext(ctx); ok {
		call.Peer = p.Addr
		if info, ok := p.AuthInfo.(*identity.AuthInfo); ok {
			call.Caller, call.session = info.Caller, info.Session
		}
	}
	if !strings.HasPrefix(info.FullMethodName, "/") || !strings.Contains(info.FullMethodName[1:], "/") {
		refusal := Refuse(MethodUnknown, "the path is not /service/method")
		if !in.enqueue(call, refusal) {
			refusal = Refuse(AuditUnavailable, "")
		}
		return nil, refusal.status(call.ID).Err()
	}
	// The bound must be on the transport's own context, which is what reading
	// and writing wait for. The transport cancels that context, and so this one,
	// when the stream has ended: not before the reply has left.
	call.tagged.Context, call.cancel = context.WithCancelCause(ctx)
	limit := in.chain.limit(call.method)
	end := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		call.tagged.deadline = d
	} else {
		call.tagged.deadline = end
		call.limit = time.AfterFunc(limit, func() { call.end(&Refusal{Reason: DeadlineExceeded}) })
	}
	if call.session != nil {
		in.chain.live.begin(call, call.session)
	}
	in.waiting.Add(1)
	call.lost = context.AfterFunc(call.ctx, func() { in.ended(call) })
	return call.ctx, nil
}

// limit is the longest that a call of the method may take.
func (c *Chain) limit(m *Method) time.Duration {
	if m != nil && m.streams {
		return c.cfg.MaxStreamDuration
	}
	return c.cfg.MaxCallDuration
}

// hand gives the call to the gates. It is false if the call has ended and is
// recorded.
func (in *intake) hand(call *Call) bool {
	if !call.lost() {
		return false
	}
	in.waiting.Done()
	return true
}

// ended records a call that ended before the gates had it.
func (in *intake) ended(call *Call) {
	defer in.waiting.Done()
	in.enqueue(call, call.finish(Refuse(call.ended(), "ended before the gates, by the caller or the transport")))
}

// Calls that end before the gates cost next to nothing and nothing holds them
// back. Past this many a second they are counted, and the count is recorded: else
// any caller could fill the disk.
const (
	doorRecords = 100
	doorBurst   = 1000
)

// enqueue records a call of which nobody waits for the record, and tells whether
// that will be done.
func (in *intake) enqueue(call *Call, refusal *Refusal) bool {
	in.chain.observe(call, refusal)
	if !in.limit.Allow() {
		in.unrecorded.Add(1)
		return false
	}
	rec := in.chain.recordOf(call, refusal)
	defer rec.release()
	if in.chain.cfg.Audit.Enqueue(&rec.Record) != nil {
		in.unrecorded.Add(1)
		return false
	}
	if n := in.unrecorded.Swap(0); n > 0 {
		missing := &auditv1.Record{
			Kind:   auditv1.Kind_KIND_EVENT,
			Time:   timestamppb.New(call.Start),
			Detail: strconv.FormatUint(n, 10) + " more calls that ended before the gates are not recorded: they came too fast",
		}
		if in.chain.cfg.Audit.Enqueue(missing) != nil {
			in.unrecorded.Add(n)
		}
	}
	return true
}

// close waits until no call is between door and gates, or ctx ends.
func (in *intake) close(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		in.waiting.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
