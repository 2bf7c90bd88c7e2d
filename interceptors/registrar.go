package interceptors

import (
	"errors"
	"fmt"

	"google.golang.org/grpc"
)

// Registrar registers services on a grpc.Server so that their unary methods go
// through the chain as streams of one message.
type Registrar struct {
	chain *Chain
	next  grpc.ServiceRegistrar
	err   error
}

var _ grpc.ServiceRegistrar = (*Registrar)(nil)

// Registrar returns a registrar in front of next, usually a *grpc.Server that
// was made with the chain's ServerOptions.
func (c *Chain) Registrar(next grpc.ServiceRegistrar) *Registrar {
	return &Registrar{chain: c, next: next}
}

// Err tells where the registered methods and the chain's table do not agree: a
// method without an entry, and therefore without an action, or an entry without a
// method. A server must not start so.
func (r *Registrar) Err() error {
	err := r.err
	for _, m := range r.chain.methods {
		if !m.registered {
			err = errors.Join(err, fmt.Errorf("interceptors: method %s has an action but is not registered", m.FullMethod))
		}
	}
	return err
}

// RegisterService registers a service whose every method has an entry in the
// chain's table.
func (r *Registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	gated := &grpc.ServiceDesc{
		ServiceName: desc.ServiceName,
		HandlerType: desc.HandlerType,
		Metadata:    desc.Metadata,
	}
	for _, s := range desc.Streams {
		r.note(desc.ServiceName, s.StreamName, true)
		gated.Streams = append(gated.Streams, s)
	}
	for _, m := range desc.Methods {
		r.note(desc.ServiceName, m.MethodName, false)
		gated.Streams = append(gated.Streams, grpc.StreamDesc{
			StreamName: m.MethodName,
			Handler:    r.chain.unary(desc.ServiceName, m),
		})
	}
	r.next.RegisterService(gated, impl)
}

// note marks the method as registered in the chain's table.
func (r *Registrar) note(service, method string, streams bool) {
	full := "/" + service + "/" + method
	m := r.chain.methods[full]
	if m == nil {
		r.err = errors.Join(r.err, fmt.Errorf("interceptors: registered method %s has no policy action", full))
		return
	}
	m.registered, m.streams = true, streams
}

// unary turns a unary method into a stream handler. grpc-go does not call
// stream interceptors for a method that streams on neither side, so the chain
// is called here. The reply leaves after the chain is done, that is after the
// record of the call is durable.
func (c *Chain) unary(service string, m grpc.MethodDesc) grpc.StreamHandler {
	info := &grpc.StreamServerInfo{FullMethod: "/" + service + "/" + m.MethodName}
	handler := func(srv any, ss grpc.ServerStream) error {
		ctx := ss.Context()
		reply, err := m.Handler(srv, ctx, ss.RecvMsg, nil)
		if err != nil {
			return err
		}
		// Encoded in here, so that the record knows of a reply that cannot be.
		call := CallFromContext(ctx)
		if err := call.reply.Encode(ss, reply); err != nil {
			return &Refusal{Reason: Internal, Detail: "encode the reply", Cause: err}
		}
		call.sentMessage(reply)
		return nil
	}
	return func(srv any, ss grpc.ServerStream) error {
		if err := c.serve(srv, ss, info, handler); err != nil {
			return err
		}
		return ss.SendMsg(&CallFromContext(ss.Context()).reply)
	}
}
