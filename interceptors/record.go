package interceptors

import (
	"crypto/sha256"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// Outcome is what became of one RPC, for metrics. It holds no value that a
// caller could make up, save Model, which is empty unless the model exists.
type Outcome struct {
	Action   string
	Model    string
	Code     codes.Code
	Reason   Reason
	Duration time.Duration
	// Gates is the time from the headers to the first valid message; 0 if there
	// was none.
	Gates time.Duration
	// Running is the time that models ran.
	Running time.Duration
	Rows    int64
	// ShadowAllow counts the decisions that the shadow policy would have made
	// against a refusal, ShadowDeny those against an allowance.
	ShadowAllow, ShadowDeny uint64
}

// record is the audit stage. It closes the call whatever happens further in:
// an answer leaves only after its record is durable.
func (c *Chain) record(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	call := CallFromContext(ss.Context())
	// What could not be recorded is not even tried.
	err := c.cfg.Audit.Err()
	if err != nil {
		err = &Refusal{Reason: AuditUnavailable, Cause: err}
	} else {
		err = next(srv, ss)
	}
	// The quota has set the header, unless the call did not come so far.
	if gone := call.header(ss, nil); gone != nil && err == nil {
		err = &Refusal{Reason: call.ended(), Detail: "the stream was gone before the header was set", Cause: gone}
	}
	return c.close(call, err)
}

// recordable refuses further messages of a stream while the log is broken.
func (c *Chain) recordable(*Call, *Message) error {
	if err := c.cfg.Audit.Err(); err != nil {
		return &Refusal{Reason: AuditUnavailable, Cause: err}
	}
	return nil
}

// close ends the call: it settles what the call holds, writes its record and
// returns what the caller gets.
func (c *Chain) close(call *Call, err error) error {
	refusal := call.finish(err)
	if refusal != nil && call.forced() == nil {
		c.throttle(call)
	}
	rec := c.recordOf(call, refusal)
	defer rec.release()
	// Which waits also if the caller has gone.
	if err := c.cfg.Audit.Append(call.ctx, &rec.Record, c.durability(call, &rec.Record)); err != nil {
		refusal = &Refusal{Reason: AuditUnavailable, Cause: err}
	}
	return c.leave(call, refusal)
}

// durability is what the answer waits for. Less than the disk does only for a call
// that is answered: what is refused names whatever model it likes.
func (c *Chain) durability(call *Call, rec *auditv1.Record) audit.Durability {
	call.mu.Lock()
	allowed := call.decision.Allowed
	call.mu.Unlock()
	if !allowed || rec.GetCode() != 0 || len(rec.GetRefused()) > 0 {
		return audit.Required
	}
	return c.cfg.Durability(rec.GetAction(), rec.GetModel())
}

// leave reports the outcome and turns the refusal, if any, into the status
// that the caller gets.
func (c *Chain) leave(call *Call, refusal *Refusal) error {
	c.observe(call, refusal)
	if refusal == nil {
		return nil
	}
	c.logRefusal(call, refusal)
	return refusal.status(call.ID).Err()
}

// observe tells the metrics what became of the call.
func (c *Chain) observe(call *Call, refusal *Refusal) {
	out := Outcome{Duration: c.cfg.Now().Sub(call.Start)}
	if call.method != nil {
		out.Action = call.method.Action.String()
	}
	if !call.gatesDone.IsZero() {
		out.Gates = call.gatesDone.Sub(call.Start)
	}
	if refusal != nil {
		out.Code, out.Reason = refusal.Reason.Code(), refusal.Reason
	}
	out.ShadowAllow, out.ShadowDeny = call.shadow.wouldAllow, call.shadow.wouldDeny
	call.mu.Lock()
	out.Model, out.Running, out.Rows = call.modelName, call.modelTime, call.rowsRun
	call.mu.Unlock()
	c.cfg.Observe(out)
}

// recordBuffer is a record with all that it points to. It is used again as soon as
// the log has encoded the record.
type recordBuffer struct {
	auditv1.Record
	time     timestamppb.Timestamp
	duration durationpb.Duration
	ran      durationpb.Duration
	caller   auditv1.Caller
	expiry   timestamppb.Timestamp
	digest   [sha256.Size]byte
}

var recordBuffers = sync.Pool{New: func() any { return new(recordBuffer) }}

func (b *recordBuffer) release() {
	b.Reset()
	b.caller.Reset()
	recordBuffers.Put(b)
}

// recordOf is the record of a call. Whoever has it releases it.
func (c *Chain) recordOf(call *Call, refusal *Refusal) *recordBuffer {
	b := recordBuffers.Get().(*recordBuffer) //nolint:forcetypeassert // the pool's own
	rec := &b.Record
	rec.Kind = auditv1.Kind_KIND_CALL
	setTime(&b.time, call.Start)
	rec.Time = &b.time
	took := c.cfg.Now().Sub(call.Start)
	b.duration.Seconds, b.duration.Nanos = int64(took/time.Second), int32(took%time.Second)
	rec.Duration = &b.duration
	rec.CallId = call.ID
	rec.Method = call.FullMethod
	rec.PeerAddress = address(call.Peer)
	rec.Model = call.model
	rec.MessagesReceived = call.received
	rec.MessagesSent = call.sent.Load()
	rec.BytesReceived, rec.BytesSent = call.bytesReceived, call.bytesSent.Load()
	if who := call.Caller; who != nil {
		b.caller.SpiffeId, b.caller.SvidSerial = who.ID.String(), who.Serial
		setTime(&b.expiry, who.NotAfter)
		b.caller.SvidExpiry = &b.expiry
		rec.Caller = &b.caller
	}
	if user := call.User; user != nil {
		rec.User = &auditv1.User{
			Issuer:  clip(user.Issuer, maxClaimBytes),
			Subject: c.subject(user),
			Expiry:  timestamppb.New(user.NotAfter),
		}
	}
	if call.method != nil {
		rec.Action = call.method.Action.String()
	}
	if call.grant != nil {
		rec.Roles = call.grant.Roles
	}
	if refusal != nil {
		rec.Code, rec.Reason, rec.Detail = uint32(refusal.Reason.Code()), string(refusal.Reason), clip(refusal.Error(), maxDetailBytes)
	}
	if call.digest != nil {
		rec.InputDigest = call.digest.Sum(b.digest[:0])
		call.digest.Release()
		call.digest = nil
	}
	rec.Shadow = call.shadow.record(c.detail(call.User, call.shadow.last))
	call.mu.Lock()
	defer call.mu.Unlock()
	if call.modelName != "" {
		if refusal != nil && call.model != call.modelName {
			// A later message named another one than that which the call is about.
			rec.Detail = clip(fmt.Sprintf("asked for model %q: %s", call.model, rec.GetDetail()), maxDetailBytes)
		}
		rec.Model = call.modelName
	}
	rec.ModelVersion, rec.ModelDigest = call.modelVersion, call.modelDigest
	rec.RowsReceived, rec.RowsRun = uint64(max(call.rowsReceived, 0)), uint64(max(call.rowsRun, 0))
	rec.Refused = call.refused
	if ran := call.modelTime; ran > 0 {
		b.ran.Seconds, b.ran.Nanos = int64(ran/time.Second), int32(ran%time.Second)
		rec.ModelDuration = &b.ran
	}
	if ix := call.decidedBy; ix != nil {
		rec.PolicyGeneration, rec.PolicyDigest = ix.Generation(), ix.Digest()
		rec.Decision = call.decision.Outcome.String()
		rec.Action = call.request.Action.String() // which a message may have waived
	}
	return b
}

// maxClaimBytes bounds each name of a user in a record.
const maxClaimBytes = 2 << 10

// setTime is timestamppb.New in place.
func setTime(ts *timestamppb.Timestamp, t time.Time) {
	ts.Seconds, ts.Nanos = t.Unix(), int32(t.Nanosecond()) //nolint:gosec // below a second
}

// maxDetailBytes bounds the operator's story in a record.
const maxDetailBytes = 8 << 10

// clip makes s fit for a record: at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	return strings.ToValidUTF8(s[:min(len(s), n)], "?")
}

func address(a net.Addr) string {
	if a == nil {
		return ""
	}
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().String()
	}
	return a.String()
}
