package interceptors_test

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server/inference"
)

// memoryStream is the server's side of one unary RPC whose request is already
// there, so that a benchmark sees the gates and not the network.
type memoryStream struct {
	grpc.ServerStream
	ctx  context.Context
	body []byte
	at   int
}

func (s *memoryStream) Method() string               { return inferencev1.PredictionService_Predict_FullMethodName }
func (s *memoryStream) SetHeader(metadata.MD) error  { return nil }
func (s *memoryStream) SendHeader(metadata.MD) error { return nil }
func (s *memoryStream) SetTrailer(metadata.MD) error { return nil }

// transportStream adapts the one method whose form differs.
type transportStream struct{ *memoryStream }

func (s *memoryStream) Context() context.Context { return s.ctx }
func (s *memoryStream) SendMsg(any) error        { return nil }
func (s *memoryStream) RecvMsg(m any) error      { return proto.Unmarshal(s.body[5:], m.(proto.Message)) }

func (s *memoryStream) ReadMessageHeader(header []byte) error {
	if s.at == len(s.body) {
		return io.EOF
	}
	s.at += copy(header, s.body[s.at:])
	return nil
}

func (s *memoryStream) Read(n int) (mem.BufferSlice, error) {
	s.at += n
	return mem.BufferSlice{mem.SliceBuffer(s.body[s.at-n : s.at])}, nil
}

// headerless is memoryStream as a grpc.ServerStream, whose SetTrailer has no
// result.
type headerless struct{ *memoryStream }

func (headerless) SetTrailer(metadata.MD) {}

// echo answers without doing anything, so that what is left is the gates.
type echo struct {
	inferencev1.UnimplementedPredictionServiceServer
	reply *inferencev1.PredictResponse
}

func (e echo) Predict(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	return e.reply, nil
}

// BenchmarkGates is the cost of one unary call of one row through every gate,
// beside the same call without any: decoding and handler only. The audit log
// is on a file system in memory if there is one, so that the figure is the
// gates' and not the disk's. Run with -cpu to see waiting calls share a commit.
func BenchmarkGates(b *testing.B) {
	method := inferencev1.PredictionService_ServiceDesc.Methods[0]
	data, err := proto.Marshal(good())
	if err != nil {
		b.Fatal(err)
	}
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
	ca := identitytest.NewCA(b, "sallyport.test")
	svid := ca.SVID(b, "/clinic/triage")
	deadline, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	ctx := peer.NewContext(serverContext(b, deadline), &peer.Peer{
		Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711},
		AuthInfo: &identity.AuthInfo{
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
			Caller:         &identity.Caller{ID: svid.ID, Serial: "01", NotAfter: time.Now().Add(time.Hour)},
		},
	})
	service := echo{reply: &inferencev1.PredictResponse{Model: "breast-cancer"}}

	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				s := &memoryStream{ctx: ctx, body: body}
				if _, err := method.Handler(service, s.ctx, s.RecvMsg, nil); err != nil {
					b.Error(err)
				}
			}
		})
	})
	for _, without := range [][]string{nil, {"audit"}, {"quota"}, {"authorize", "quota"}, {"validate"}, {"recover"}} {
		name := "all"
		if len(without) > 0 {
			name = "without " + without[0]
		}
		b.Run(name, func(b *testing.B) {
			chain := benchChain(b, without)
			handler := chain.Unary(inferencev1.PredictionService_ServiceDesc.ServiceName, method)
			info := &tap.Info{FullMethodName: inferencev1.PredictionService_Predict_FullMethodName}
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					rpc, err := chain.Tap(ctx, info)
					if err != nil {
						b.Error(err)
						return
					}
					s := &memoryStream{body: body}
					s.ctx = grpc.NewContextWithServerTransportStream(rpc, transportStream{s})
					if err := handler(service, headerless{s}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// serverContext is the context of an RPC that is open as long as ctx: a reply is
// encoded with what grpc-go keeps there.
func serverContext(b *testing.B, ctx context.Context) context.Context {
	b.Helper()
	got := make(chan context.Context, 1)
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
		got <- ss.Context()
		<-ss.Context().Done()
		return nil
	}))
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = srv.Serve(lis) }()
	b.Cleanup(srv.Stop)
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/any/Method"); err != nil {
		b.Fatal(err)
	}
	return <-got
}

func benchChain(b *testing.B, without []string) *interceptors.Chain {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sallyport-bench-")
	if err != nil {
		dir = b.TempDir()
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	log, err := audit.Open(audit.Config{Key: audittest.Key(), Dir: dir + "/audit"})
	if err != nil {
		b.Fatal(err)
	}
	digester, err := audit.NewDigester(make([]byte, audit.KeyBytes))
	if err != nil {
		b.Fatal(err)
	}
	w := &world{}
	w.setPolicy(b, worldPolicy)
	chain, err := interceptors.NewWithout(interceptors.Config{
		Methods:           new(inference.Service).Methods(),
		Policy:            func() *policy.Index { return w.policy.Load() },
		Quota:             quota.New(quota.Config{}),
		Audit:             log,
		Digester:          digester,
		Log:               slog.New(slog.DiscardHandler),
		MaxMessageBytes:   4 << 20,
		MaxCallDuration:   2 * time.Hour, // the calls bring a deadline of their own
		MaxStreamDuration: 2 * time.Hour,
	}, without...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = chain.Close(context.Background())
		_ = log.Close()
	})
	return chain
}
