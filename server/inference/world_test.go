package inference_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plenty grants so much that no quota comes in the way.
const plenty = `
roles:
  - name: everything
    rules: [{actions: [PREDICT, PREDICT_STREAM], models: ["*"]}]
    limits: {requests_per_second: 100000000, request_burst: 100000000, rows_per_second: 100000000000, row_burst: 100000000000, max_rows_per_request: 1000000, max_streams: 100000}
bindings: [{role: everything, callers: ["spiffe://sallyport.test/*"]}]
`

// window is that of the world's streams.
const window = 4

// world is a real server: every gate, mTLS, ONNX Runtime.
type world struct {
	address string
	ca      *identitytest.CA
	models  *model.Repository
	service *inference.Service
	// stop begins the drain; the server has ended when done is closed.
	stop context.CancelFunc
	done chan struct{}
}

// worldConfig is what differs between worlds.
type worldConfig struct {
	models  string        // directory; the examples unless set
	timeout time.Duration // of a batch; a minute unless set
	records string        // directory of the audit log; one of the test unless set
	drain   time.Duration // 10 s unless set
}

func newWorld(tb testing.TB, cfg worldConfig) *world {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	if cfg.models == "" {
		cfg.models = "../../examples/models"
	}
	if cfg.timeout == 0 {
		cfg.timeout = time.Minute
	}
	if cfg.records == "" {
		cfg.records = tb.TempDir()
	}
	if cfg.drain == 0 {
		cfg.drain = 10 * time.Second
	}
	w := &world{ca: identitytest.NewCA(tb, "sallyport.test"), done: make(chan struct{})}
	log := slog.New(slog.DiscardHandler)
	parsed, err := policy.Parse([]byte(plenty), "policy.yaml")
	must(err)
	index, err := policy.Compile(parsed)
	must(err)
	records, err := audit.Open(audit.Config{Key: audittest.Key(), Dir: cfg.records, Logger: log})
	must(err)
	digester, err := audit.NewDigester(make([]byte, audit.KeyBytes))
	must(err)
	w.models, err = model.Open(tb.Context(), model.Config{Directory: cfg.models}, onnxtest.Open(tb), log)
	must(err)
	w.service, err = inference.New(inference.Config{Models: w.models, Window: window, BatchTimeout: cfg.timeout})
	must(err)
	chain, err := interceptors.New(interceptors.Config{
		Methods:           append(w.service.Methods(), server.StandardMethods()...),
		Policy:            func() *policy.Index { return index },
		Quota:             quota.New(quota.Config{}),
		Audit:             records,
		Digester:          digester,
		Log:               log,
		MaxMessageBytes:   maxMessage,
		MaxCallDuration:   5 * time.Minute,
		MaxStreamDuration: 5 * time.Minute,
	})
	must(err)
	srv, err := server.New(server.Config{
		Credentials: w.credentials(tb),
		Chain:       chain,
		Register: func(r grpc.ServiceRegistrar) {
			inferencev1.RegisterPredictionServiceServer(r, w.service)
			inferencev1.RegisterModelServiceServer(r, w.service)
		},
		Drain:  w.service.Drain,
		Log:    log,
		Bounds: server.Bounds{DrainTimeout: cfg.drain},
	})
	must(err)
	lis, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	must(err)
	w.address = lis.Addr().String()
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	w.stop = stop
	served := make(chan error, 1)
	go func() {
		served <- srv.Serve(ctx, lis)
		close(w.done)
	}()
	tb.Cleanup(func() {
		stop()
		end, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(<-served, chain.Close(end), w.models.Close(end), records.Close()); err != nil {
			tb.Error(err)
		}
	})
	return w
}

// maxMessage is the largest message that a world receives.
const maxMessage = 4 << 20

func (w *world) credentials(tb testing.TB) *identity.ServerCredentials {
	tb.Helper()
	creds, err := identity.NewServerCredentials(
		identitytest.NewSource(w.ca.SVID(tb, identity.ServerPath), w.ca.Bundle()),
		identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{w.ca.TrustDomain()}, Refused: func(identity.Refusal) {}})
	if err != nil {
		tb.Fatal(err)
	}
	return creds
}

// clientCredentials are those of one caller.
func (w *world) clientCredentials(tb testing.TB) credentials.TransportCredentials {
	tb.Helper()
	creds, err := identity.NewClientCredentials(
		identitytest.NewSource(w.ca.SVID(tb, "/clinic/triage"), w.ca.Bundle()), identity.DefaultServer())
	if err != nil {
		tb.Fatal(err)
	}
	return creds
}

// dial connects to the address as a workload.
func (w *world) dial(tb testing.TB, address string, opts ...grpc.DialOption) inferencev1.PredictionServiceClient {
	tb.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, append(opts, grpc.WithTransportCredentials(w.clientCredentials(tb)))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return inferencev1.NewPredictionServiceClient(conn)
}

type clientStream = inferencev1.PredictionService_PredictStreamClient

// open opens a stream and reads the server's answer to that.
func open(ctx context.Context, tb testing.TB, client inferencev1.PredictionServiceClient, o *inferencev1.StreamOpen) clientStream {
	tb.Helper()
	stream, err := client.PredictStream(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	if err := stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{Open: o}}); err != nil {
		tb.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		tb.Fatal(err)
	}
	if got := m.GetOpened().GetWindow(); got != window {
		tb.Fatalf("a window of %d, want %d", got, window)
	}
	return stream
}

func batch(sequence uint64, inputs map[string]*inferencev1.Tensor) *inferencev1.PredictStreamRequest {
	return &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
		Batch: &inferencev1.StreamBatch{Sequence: sequence, Inputs: inputs},
	}}
}

// breastCancer has rows of that model's input: one and the same patient.
func breastCancer(rows int) map[string]*inferencev1.Tensor {
	patient := []float32{
		11.99, 24.89, 77.61, 441.3, 0.103, 0.09218, 0.05441, 0.04274, 0.182, 0.0685, 0.2623, 1.204, 1.865, 19.39, 0.00832,
		0.02025, 0.02334, 0.01665, 0.02094, 0.003674, 12.98, 30.36, 84.48, 513.9, 0.1311, 0.1822, 0.1609, 0.1202, 0.2599, 0.08251,
	}
	raw := make([]byte, 0, rows*len(patient)*4)
	for range rows {
		for _, v := range patient {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		}
	}
	return map[string]*inferencev1.Tensor{"features": {
		DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{int64(rows), int64(len(patient))}, Raw: raw,
	}}
}

// rounds has the spinning model run n rounds.
func rounds(n int64) map[string]*inferencev1.Tensor {
	return map[string]*inferencev1.Tensor{
		"n": {DataType: inferencev1.DataType_DATA_TYPE_INT64, Int64Values: []int64{n}},
		"x": {DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{1}, FloatValues: []float32{0}},
	}
}

// inMemory is a directory in memory if there is one: what the disk costs is no
// matter of a benchmark of the rest.
func inMemory(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sallyport-bench-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// receive reads results until n have come, in whatever order, and hands them to
// each.
func receive(tb testing.TB, stream clientStream, n int, each func(*inferencev1.StreamResult)) {
	tb.Helper()
	for range n {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			tb.Fatal("the stream ended")
		}
		if err != nil {
			tb.Fatal(err)
		}
		if m.GetResult() == nil {
			tb.Fatalf("got %v, want a result", m)
		}
		each(m.GetResult())
	}
}
