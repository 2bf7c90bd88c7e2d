// Package interceptors is the way of every RPC through the gates: identified,
// authorized, metered, validated and recorded, in one order, the same for
// unary calls and for every message of a stream.
//
// There is one mechanism for both. To grpc-go a unary method is a stream with
// one message each way; Registrar registers it as such, so that each stage has
// a single form which cannot drift, and so that a gate can refuse before the
// body is read and see a body that cannot be decoded.
package interceptors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
)

// Stage is one gate. Of its three forms it has those that it needs; all three
// serve unary calls and streams alike.
type Stage struct {
	// Name of the stage, for metrics and tests.
	Name string
	// Place says why the stage stands where it stands.
	Place string
	// Around wraps everything after it, once an RPC. A stage with this form
	// stands before those that have only the others.
	Around grpc.StreamServerInterceptor
	// Open runs once an RPC, before any message is read.
	Open func(*Call) error
	// Message runs for every message received, the one of a unary call
	// included. An error refuses the message; the handler sees it from RecvMsg.
	Message func(*Call, *Message) error
}

// Message is one received message on its way through the gates.
type Message struct {
	// Proto is the message; nil if the bytes could not be decoded.
	Proto proto.Message
	// Err says why Proto is nil.
	Err *Refusal
	// Subject is what the message is about.
	Subject Subject

	bytes int64 // as it came
	valid bool  // whether it is known to keep the rules of its schema
}

// Subject is what the gates decide on, read from a message by its method.
type Subject struct {
	// AnyRole waives the method's action: being bound to any role suffices.
	AnyRole bool
	// Model that the message names; on a stream, empty means the model named
	// before.
	Model string
	// Rows that the message wants to run.
	Rows int64
	// Inputs are what the record has a digest of; nil if the message has none.
	Inputs Inputs
}

// Inputs are the inputs of a message.
type Inputs interface {
	// DigestTo writes their canonical form: the same values give the same bytes,
	// however they were sent.
	DigestTo(*audit.Digest)
}

// Method is what the chain must know about an RPC method.
type Method struct {
	// FullMethod is "/package.Service/Method".
	FullMethod string
	// Action that calling it takes.
	Action policy.Action
	// Waivable says that Describe may waive the action for single messages.
	Waivable bool
	// Describe reads the subject of a message; nil if messages have none.
	Describe func(proto.Message) Subject
	// New returns an empty request; it warms the validator. Required.
	New func() proto.Message
	// Decode decodes data into a message of New's type, sooner than Protobuf and the
	// validator do, and is true only if they would have decoded the same and found it
	// valid. If it is false they are asked, and what the message holds does not
	// matter. The message must not refer to data, which is used again. Optional.
	Decode func(data mem.BufferSlice, m proto.Message) bool

	// What the Registrar finds out.
	registered, streams bool
	bounds              *bounds
}

// Config is what a chain is made of. What is not said to be
// optional is required.
type Config struct {
	Methods  []Method
	Policy   func() *policy.Index
	Quota    *quota.Limiter
	Audit    *audit.Log
	Digester *audit.Digester
	Log      *slog.Logger
	// Durability says what the answer of a call waits for, by its action and the
	// model that it names. Nil: for the record to be on disk.
	Durability func(action, model string) audit.Durability
	// Pseudonymizer replaces the subjects of users in records and in lines of the
	// log. Nil: they are there as they are.
	Pseudonymizer *audit.Pseudonymizer
	// Users verifies the tokens by which calls are made on behalf of users. Nil: a
	// call that brings one is refused.
	Users UserVerifier
	// Shadow returns a policy whose decisions are recorded beside those of Policy
	// and not enforced; it may return nil. Nil: there is none.
	Shadow func() *policy.Index
	// MaxMessageBytes is the largest message received.
	MaxMessageBytes int
	// MaxCallDuration bounds a unary call, whatever deadline it brings.
	MaxCallDuration time.Duration
	// MaxStreamDuration bounds a stream.
	MaxStreamDuration time.Duration
	// Observe is told of every RPC after it was recorded; it must not block.
	// Optional.
	Observe func(Outcome)
	// Now is the clock; time.Now unless set.
	Now func() time.Time
}

func (c *Config) validate() error {
	var errs []error
	missing := func(name string, absent bool) {
		if absent {
			errs = append(errs, fmt.Errorf("interceptors: %s is required", name))
		}
	}
	missing("Methods", len(c.Methods) == 0)
	missing("Policy", c.Policy == nil)
	missing("Quota", c.Quota == nil)
	missing("Audit", c.Audit == nil)
	missing("Digester", c.Digester == nil)
	missing("Log", c.Log == nil)
	missing("MaxMessageBytes", c.MaxMessageBytes <= 0)
	missing("MaxCallDuration", c.MaxCallDuration <= 0)
	missing("MaxStreamDuration", c.MaxStreamDuration <= 0)
	for _, m := range c.Methods {
		if m.Action == policy.None {
			errs = append(errs, fmt.Errorf("interceptors: method %s has no action", m.FullMethod))
		}
		if m.New == nil {
			errs = append(errs, fmt.Errorf("interceptors: method %s cannot make its request", m.FullMethod))
		}
	}
	return errors.Join(errs...)
}

// Chain is the ordered gates and the door before them. It is safe for
// concurrent use.
type Chain struct {
	cfg       Config
	methods   map[string]*Method // by full method
	stages    []Stage
	arounds   []grpc.StreamServerInterceptor
	opens     []func(*Call) error
	messages  []func(*Call, *Message) error
	validator protovalidate.Validator
	intake    *intake
	live      live
	grants    atomic.Pointer[grants]
}

// New returns the chain with all its stages. Close it after the server that
// uses it has stopped.
func New(cfg Config) (*Chain, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return newChain(cfg, (*Chain).order)
}

// order is the order of the gates, written down once.
func (c *Chain) order() []Stage {
	return []Stage{
		{
			Name:    "audit",
			Place:   "first: whatever happens further in is recorded with the status that leaves, and the answer waits for the record",
			Around:  c.record,
			Message: c.recordable,
		},
		{
			Name:  "recover",
			Place: "outside every other gate and the handler, so that a panic in any of them ends one call and no more",
			Around: recovery.StreamServerInterceptor(
				recovery.WithRecoveryHandlerContext(c.recovered)),
		},
		{
			Name:    "identify",
			Place:   "before every decision about the caller and the user on whose behalf it calls",
			Open:    c.identify,
			Message: c.identified,
		},
		{
			Name:    "authorize",
			Place:   "before anything is spent on the call; what the caller may not do on any model is refused before the body is read",
			Open:    c.authorizeMethod,
			Message: c.authorizeMessage,
		},
		{
			Name:    "quota",
			Place:   "before validation, so that probing with invalid input is paid for",
			Open:    c.admitStream,
			Message: c.meter,
		},
		{
			Name:    "validate",
			Place:   "last before the handler, which sees only valid messages",
			Message: c.validate,
		},
	}
}

func newChain(cfg Config, order func(*Chain) []Stage) (*Chain, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Durability == nil {
		cfg.Durability = func(string, string) audit.Durability { return audit.Required }
	}
	if cfg.Shadow == nil {
		cfg.Shadow = func() *policy.Index { return nil }
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Outcome) {}
	}
	cfg.Methods = slices.Clone(cfg.Methods) // the Registrar writes into it
	c := &Chain{cfg: cfg, methods: make(map[string]*Method, len(cfg.Methods))}
	known := make(map[protoreflect.FullName]*bounds)
	warm := make([]proto.Message, 0, len(cfg.Methods))
	for i := range cfg.Methods {
		m := &cfg.Methods[i]
		if c.methods[m.FullMethod] != nil {
			return nil, fmt.Errorf("interceptors: method %s is listed twice", m.FullMethod)
		}
		c.methods[m.FullMethod] = m
		request := m.New()
		warm = append(warm, request)
		var err error
		if m.bounds, err = boundsOf(request.ProtoReflect().Descriptor(), known); err != nil {
			return nil, fmt.Errorf("interceptors: bounds of %s: %w", m.FullMethod, err)
		}
	}
	// Compiling the rules of a type takes milliseconds: at start, not in a call.
	validator, err := protovalidate.New(protovalidate.WithMessages(warm...), protovalidate.WithDisableLazy())
	if err != nil {
		return nil, fmt.Errorf("interceptors: compile the validation rules: %w", err)
	}
	c.validator = validator
	c.stages = order(c)
	for _, s := range c.stages {
		switch {
		case s.Around == nil && s.Open == nil && s.Message == nil:
			return nil, fmt.Errorf("interceptors: stage %q has no form", s.Name)
		case s.Around != nil && len(c.opens) > 0:
			return nil, fmt.Errorf("interceptors: stage %q wraps the call but stands behind one that does not", s.Name)
		}
		if s.Around != nil {
			c.arounds = append(c.arounds, s.Around)
		}
		if s.Open != nil {
			c.opens = append(c.opens, s.Open)
		}
		if s.Message != nil {
			c.messages = append(c.messages, s.Message)
		}
	}
	c.intake = &intake{chain: c, limit: rate.NewLimiter(doorRecords, doorBurst)}
	return c, nil
}

// Stages returns the gates in their order.
func (c *Chain) Stages() []Stage { return c.stages }

// Close waits until no RPC is between the door and the gates, each of them with
// the gates or with the log, or ctx ends.
func (c *Chain) Close(ctx context.Context) error { return c.intake.close(ctx) }

// ServerOptions are the options with which a grpc.Server must be made so that
// no RPC misses the gates.
func (c *Chain) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.InTapHandle(c.intake.open),
		grpc.StreamInterceptor(c.serve),
		grpc.UnaryInterceptor(refuseUnregistered),
		grpc.UnknownServiceHandler(unknownMethod),
		// The gated stream holds the same bound with a reason; this one is for what
		// would not go through it.
		grpc.MaxRecvMsgSize(c.cfg.MaxMessageBytes),
	}
}

// serve takes one RPC through the gates to its handler.
func (c *Chain) serve(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	call := CallFromContext(ss.Context())
	if call == nil {
		return Refuse(Internal, "the server was made without the chain's options").status("").Err()
	}
	if !c.intake.hand(call) {
		// It ended before its turn came; that is on record.
		return call.Status(cmp.Or(call.forced(), Refuse(Cancelled, ""))).Err()
	}
	stream, err := newGatedStream(c, call, ss, info)
	if err != nil {
		return c.close(call, err)
	}
	return c.through(0, srv, stream, info, handler)
}

// through runs the stages from the i-th that wraps the call, then the handler.
func (c *Chain) through(i int, srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if i < len(c.arounds) {
		return c.arounds[i](srv, ss, info, func(srv any, ss grpc.ServerStream) error {
			return c.through(i+1, srv, ss, info, handler)
		})
	}
	call := CallFromContext(ss.Context())
	for _, open := range c.opens {
		if err := open(call); err != nil {
			return err
		}
	}
	return handler(srv, ss)
}

// unknownMethod is the handler of methods that are not registered. The
// authorize stage has refused them before it is reached.
func unknownMethod(any, grpc.ServerStream) error {
	return Refuse(MethodUnknown, "no handler")
}

// refuseUnregistered answers unary methods that were registered without the
// Registrar and would therefore miss the gates.
func refuseUnregistered(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
	return nil, Refuse(Internal, "registered past the chain").status("").Err()
}
