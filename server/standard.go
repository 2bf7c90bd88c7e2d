package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// StandardMethods are the methods of the services that every server has:
// health and reflection. Both take INTROSPECT, but for the health of the whole
// server, which any caller with a role may ask for.
func StandardMethods() []interceptors.Method {
	newCheck := func() proto.Message { return &healthv1.HealthCheckRequest{} }
	overall := func(m proto.Message) interceptors.Subject {
		r, _ := m.(*healthv1.HealthCheckRequest)
		return interceptors.Subject{AnyRole: r.GetService() == ""}
	}
	return []interceptors.Method{
		{FullMethod: healthv1.Health_Check_FullMethodName, Action: policy.Introspect, Waivable: true, New: newCheck, Describe: overall},
		{FullMethod: healthv1.Health_Watch_FullMethodName, Action: policy.Introspect, Waivable: true, New: newCheck, Describe: overall},
		{
			FullMethod: healthv1.Health_List_FullMethodName, Action: policy.Introspect,
			New: func() proto.Message { return &healthv1.HealthListRequest{} },
		},
		{
			FullMethod: reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName, Action: policy.Introspect,
			New: func() proto.Message { return &reflectionv1.ServerReflectionRequest{} },
		},
	}
}

// watchedHealth is health of which nobody's watching holds up the drain.
type watchedHealth struct {
	*health.Server
	draining <-chan struct{}
}

// Watch ends when the server drains, after it has said so.
func (h watchedHealth) Watch(r *healthv1.HealthCheckRequest, stream healthv1.Health_WatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		select {
		case <-h.draining:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := h.Server.Watch(r, watchStream{stream, ctx})
	if stream.Context().Err() == nil && ctx.Err() != nil {
		return stream.Send(&healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING})
	}
	return err
}

// watchStream ends sooner than its caller.
type watchStream struct {
	healthv1.Health_WatchServer
	ctx context.Context
}

func (s watchStream) Context() context.Context { return s.ctx }

// registerStandard registers health and reflection; reflection shows the
// services of info.
func registerStandard(r grpc.ServiceRegistrar, h healthv1.HealthServer, info reflection.ServiceInfoProvider) {
	healthv1.RegisterHealthServer(r, h)
	reflectionv1.RegisterServerReflectionServer(r, reflection.NewServerV1(reflection.ServerOptions{Services: info}))
}
