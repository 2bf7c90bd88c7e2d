package interceptors

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// NewWithout returns a chain that lacks the named stages, to show that the
// tests notice.
func NewWithout(cfg Config, names ...string) (*Chain, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return newChain(cfg, func(c *Chain) []Stage {
		return slices.DeleteFunc(c.order(), func(s Stage) bool { return slices.Contains(names, s.Name) })
	})
}

// Unary is the handler as which a unary method is registered.
func (c *Chain) Unary(service string, m grpc.MethodDesc) grpc.StreamHandler {
	return c.unary(service, m)
}

// Tap is the early door.
func (c *Chain) Tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	return c.intake.open(ctx, info)
}

// Bounds returns the check of a message's bytes before it is decoded, which
// returns what it refuses.
func Bounds(m proto.Message) (func([]byte) *Refusal, error) {
	b, err := boundsOf(m.ProtoReflect().Descriptor(), make(map[protoreflect.FullName]*bounds))
	if err != nil {
		return nil, err
	}
	return b.check, nil
}

// OpenCalls is how many calls of the method are past the door.
func OpenCalls(c *Chain, method string) int {
	n := 0
	for _, call := range c.live.open() {
		if call.FullMethod == method {
			n++
		}
	}
	return n
}
