package interceptors

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
)

// maxMethodBytes bounds what is kept of a caller's path.
const maxMethodBytes = 256

// CallIDHeader is the response header that carries the call id.
const CallIDHeader = "sallyport-call-id"

// Call is one RPC on its way through the gates. The early door opens it, the
// audit stage closes it; between the two each stage adds what it found out.
//
// The stages run one after the other on the RPC's goroutine and use the fields
// without a lock. A handler may report from several goroutines, so what it
// reports is guarded by mu.
type Call struct {
	// ID names the call to the caller and in the audit log.
	ID string
	// FullMethod is the method as the caller wrote it.
	FullMethod string
	// Peer is the address of the other end.
	Peer net.Addr
	// Start is when the RPC's headers arrived.
	Start time.Time
	// Caller is the proved identity at the other end; nil if there is none.
	Caller *identity.Caller
	// User is on whose behalf the caller calls; nil for itself.
	User *identity.User

	// ctx is the call's context, bounded in time. tagged is what makes the call
	// known to it. cancel ends it, with a *Refusal as its cause.
	ctx    context.Context
	tagged callContext
	cancel context.CancelCauseFunc

	// session is the connection that the call came over, connection the calls open
	// there; nil if no identity was proved.
	session    *identity.Session
	connection *connection

	// lost takes the call from the intake; it is true once, unless the call has
	// ended before.
	lost func() bool

	method    *Method     // nil if unknown
	limit     *time.Timer // ends the call that takes too long; nil if its caller does before
	userEnd   *time.Timer // ends the call with the user's token; nil if it has none
	index     *policy.Index
	grant     *policy.Grant
	model     string // as the caller wrote it; kept for later messages of a stream
	gatesDone time.Time
	digest    *audit.Digest
	received  uint64
	sent      atomic.Uint64
	// Bytes of the messages received and sent. The first is the RPC's goroutine's.
	bytesReceived uint64
	bytesSent     atomic.Uint64
	// headed tells whether the response header is set; headers are its values, and
	// standing is what they tell of the quota.
	headed   atomic.Bool
	headers  [3]string
	standing quota.Standing
	place    *quota.Stream    // among the caller's open streams; nil if it takes none
	placeKey string           // the grant under which it was taken
	paid     bool             // whether the quota took anything for the call
	reply    grpc.PreparedMsg // of a unary call
	shadow   shadow

	// Held here, so that a call is one piece of memory.
	gated   gatedStream
	message Message

	mu           sync.Mutex // guards the fields below
	request      policy.Request
	decision     policy.Decision // on request; zero before the first
	decidedBy    *policy.Index
	settled      bool   // finish was called
	token        string // of the user; empty if there is none
	modelName    string // as the repository knows it; empty until it is resolved
	modelVersion int64
	modelDigest  string
	rowsReceived int64
	rowsRun      int64
	modelTime    time.Duration
	reserved     quota.Reservation // rows taken and not yet run
	sentSettled  uint64            // bytes sent that the budgets have counted
	refused      map[string]uint64
}

func newCall(ctx context.Context, fullMethod string, now time.Time) *Call {
	c := &Call{ID: newCallID(now), FullMethod: clip(fullMethod, maxMethodBytes), Start: now}
	c.tagged = callContext{Context: ctx, call: c}
	c.ctx = &c.tagged
	return c
}

// end ends the call, wherever it is, with the refusal. It does not block; the first
// that comes holds.
func (c *Call) end(refusal *Refusal) { c.cancel(refusal) }

// forced is why the call must not go on: what end was given, or that its
// connection's session has ended; nil if it may.
func (c *Call) forced() *Refusal {
	if c.session != nil {
		// The session tells its calls a moment later.
		if refusal := sessionEnded(c.session.Err()); refusal != nil {
			return refusal
		}
	}
	if c.ctx.Err() == nil {
		return nil
	}
	var refusal *Refusal
	errors.As(context.Cause(c.ctx), &refusal)
	return refusal
}

// newCallID makes an id that sorts by time. Its randomness is unpredictable, but
// it is a name and no secret.
func newCallID(now time.Time) string {
	var id ulid.ULID
	_ = id.SetTime(ulid.Timestamp(now))                       // fails from the year 10889 on
	binary.BigEndian.PutUint16(id[6:], uint16(rand.Uint32())) //nolint:gosec // a name and no secret
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())         //nolint:gosec // a name and no secret
	var text [ulid.EncodedSize]byte
	_ = id.MarshalTextTo(text[:]) // fails for another size only
	return string(text[:])
}

// callContext is a context that knows its call, and when the call must end. That
// ends it like everything else that does; a context with a deadline of its own
// would be one more to make for each call.
type callContext struct {
	context.Context
	call     *Call
	deadline time.Time
}

// Deadline is when the call must end.
func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

type callKey struct{}

// Value returns the call for callKey.
func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return c.call
	}
	return c.Context.Value(key)
}

// CallFromContext returns the call whose handler ctx belongs to, or nil.
func CallFromContext(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// May tells whether the caller may do the action on the model, by the policy
// that let the call in. For the RPC's own goroutine.
func (c *Call) May(action policy.Action, model string) bool {
	request := c.policyRequest(action, model)
	request.Time = c.request.Time // this goroutine alone writes it
	return c.index.Decide(request).Allowed
}

// MaxRows is the most rows that the caller may put into one message. For the
// RPC's own goroutine.
func (c *Call) MaxRows() int64 {
	if c.grant == nil {
		return 0
	}
	return c.grant.Limits.MaxRowsPerRequest
}

// Resolved reports which artefact the call was resolved to. From then on it is
// the model of the call's record, whatever later messages name.
func (c *Call) Resolved(name string, version int64, digest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.modelName, c.modelVersion, c.modelDigest = name, version, digest
}

// Ran reports that a model ran, or began to run, over rows: they are paid for, and so
// is d, the time for which it ran, waiting not included.
func (c *Call) Ran(rows int64, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rowsRun += rows
	c.modelTime += d
	c.reserved.Spend(rows, d)
}

// NotRun gives rows of a message that will not run back to the caller's quota.
// At the end of the call everything is given back that neither ran nor was given
// back before.
func (c *Call) NotRun(rows int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved.Refund(rows)
}

// Refused reports that one batch of a stream was answered with an error.
func (c *Call) Refused(err error) {
	reason := string(refusalOf(err).Reason)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		c.refused = make(map[string]uint64)
	}
	c.refused[reason]++
}
