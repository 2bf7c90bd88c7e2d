package main

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// scriptedServer answers as a test wants: what a real server does only now and
// then, such as draining in the middle of a stream.
type scriptedServer struct {
	inferencev1.UnimplementedPredictionServiceServer
	inferencev1.UnimplementedModelServiceServer

	predict func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error)
	stream  func(grpc.BidiStreamingServer[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]) error
	models  []*inferencev1.Model
}

func (s *scriptedServer) Predict(ctx context.Context, r *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	return s.predict(ctx, r)
}

func (s *scriptedServer) PredictStream(stream grpc.BidiStreamingServer[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]) error {
	return s.stream(stream)
}

// ListModels gives a page a model.
func (s *scriptedServer) ListModels(_ context.Context, r *inferencev1.ListModelsRequest) (*inferencev1.ListModelsResponse, error) {
	for i, m := range s.models {
		if m.GetName() <= r.GetPageToken() {
			continue
		}
		page := &inferencev1.ListModelsResponse{Models: s.models[i : i+1]}
		if i+1 < len(s.models) {
			page.NextPageToken = m.GetName()
		}
		return page, nil
	}
	return &inferencev1.ListModelsResponse{}, nil
}

// connect serves s in memory and returns a client of it.
func connect(t *testing.T, s *scriptedServer) inferencev1.PredictionServiceClient {
	t.Helper()
	return inferencev1.NewPredictionServiceClient(serveInMemory(t, s))
}

func serveInMemory(t *testing.T, s *scriptedServer) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	inferencev1.RegisterPredictionServiceServer(server, s)
	inferencev1.RegisterModelServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}
