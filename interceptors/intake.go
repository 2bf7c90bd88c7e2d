package interceptors

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/sallyport/sallyport/identity"
)

// sweepInterval is how long an RPC that never reached the gates may be without
// its record.
const sweepInterval = 50 * time.Millisecond

// maxMethodBytes bounds what is kept of a caller's path.
const maxMethodBytes = 256

// intake is the early door. Every RPC whose headers are in order passes it, on
// the connection's reader: it never blocks. It opens the RPC's Call and lists
// it until the audit stage takes it over. An RPC that grpc-go ends in between
// (a deadline that has passed, an encoding that is not installed, a caller
// that is gone) is found by the sweep and recorded, so that none is missed and
// none recorded twice.
type intake struct {
	chain *Chain
	stop  chan struct{}
	done  chan struct{}

	mu   sync.Mutex // guards the list
	head *Call
}

func newIntake(c *Chain) *intake {
	in := &intake{chain: c, stop: make(chan struct{}), done: make(chan struct{})}
	go in.sweepUntilStopped()
	return in
}

// open is the tap handle. It refuses a path that is not canonical: grpc-go
// answers some of these itself, past every interceptor (CVE-2026-33186).
func (in *intake) open(ctx context.Context, info *tap.Info) (context.Context, error) {
	call := newCall(ctx, info.FullMethodName, nil, in.chain.cfg.Now())
	if p, ok := peer.FromContext(ctx); ok {
		call.Peer = p.Addr
	}
	if !canonical(info.FullMethodName) {
		call.Caller = identity.CallerFromPeer(ctx)
		call.FullMethod = clip(call.FullMethod, maxMethodBytes)
		refusal := Refuse(MethodUnknown, "the path is not /service/method")
		if err := in.chain.enqueue(call, refusal); err != nil {
			refusal = &Refusal{Reason: AuditUnavailable, Cause: err}
		}
		return nil, refusal.status(call.ID).Err()
	}
	in.mu.Lock()
	call.next = in.head
	if in.head != nil {
		in.head.prev = call
	}
	in.head = call
	in.mu.Unlock()
	return call.ctx, nil
}

// hand takes the call off the list and tells whether it still was on it.
func (in *intake) hand(call *Call) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.unlink(call)
}

// unlink needs mu. It is true once a call.
func (in *intake) unlink(call *Call) bool {
	if call.taken {
		return false
	}
	call.taken = true
	if call.prev != nil {
		call.prev.next = call.next
	} else {
		in.head = call.next
	}
	if call.next != nil {
		call.next.prev = call.prev
	}
	call.prev, call.next = nil, nil
	return true
}

func (in *intake) sweepUntilStopped() {
	defer close(in.done)
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			in.sweep()
		case <-in.stop:
			in.sweep()
			return
		}
	}
}

// sweep records the calls that ended before the gates.
func (in *intake) sweep() {
	var ended []*Call
	in.mu.Lock()
	for call := in.head; call != nil; {
		next := call.next
		if call.ctx.Err() != nil {
			in.unlink(call)
			ended = append(ended, call)
		}
		call = next
	}
	in.mu.Unlock()
	for _, call := range ended {
		call.Caller = identity.CallerFromPeer(call.ctx)
		// Nobody is left to be told; what close returns has no reader.
		_ = in.chain.close(call, &Refusal{Reason: call.ended(), Detail: "ended before the gates, by the caller or the transport"})
	}
}

// close ends the sweep after a last round.
func (in *intake) close(ctx context.Context) error {
	close(in.stop)
	select {
	case <-in.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// canonical tells whether path is "/service/method" in the characters that
// Protobuf names have.
func canonical(path string) bool {
	if len(path) > maxMethodBytes || len(path) == 0 || path[0] != '/' {
		return false
	}
	service, method, ok := strings.Cut(path[1:], "/")
	if !ok || service == "" || method == "" {
		return false
	}
	for i := range len(service) {
		if !nameByte(service[i]) && service[i] != '.' {
			return false
		}
	}
	for i := range len(method) {
		if !nameByte(method[i]) {
			return false
		}
	}
	return true
}

func nameByte(b byte) bool {
	return b == '_' || '0' <= b && b <= '9' || 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z'
}
