package interceptors

import (
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

// Err tells which registered methods have no entry in the chain's table, and
// therefore no action: a server must not start with one.
func (r *Registrar) Err() error { return r.err }

// RegisterService registers a service whose every method has an entry in the
// chain's table.
func (r *Registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	gated := &grpc.ServiceDesc{
		ServiceName: desc.ServiceName,
		HandlerType: desc.HandlerType,
		Metadata:    desc.Metadata,
	}
	for _, s := range desc.Streams {
		r.check(desc.ServiceName, s.StreamName)
		gated.Streams = append(gated.Streams, s)
	}
	for _, m := range desc.Methods {
		r.check(desc.ServiceName, m.MethodName)
		gated.Streams = append(gated.Streams, grpc.StreamDesc{
			StreamName: m.MethodName,
			Handler:    r.chain.unary(desc.ServiceName, m),
		})
	}
	r.next.RegisterService(gated, impl)
}

func (r *Registrar) check(service, method string) {
	full := "/" + service + "/" + method
	if r.err == nil && r.chain.methods[full] == nil {
		r.err = fmt.Errorf("interceptors: registered method %s has no policy action", full)
	}
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
		if err == nil {
			call := CallFromContext(ctx)
			call.reply = reply
			call.sent.Add(1)
		}
		return err
	}
	return func(srv any, ss grpc.ServerStream) error {
		if err := c.serve(srv, ss, info, handler); err != nil {
			return err
		}
		return ss.SendMsg(CallFromContext(ss.Context()).reply)
	}
}
