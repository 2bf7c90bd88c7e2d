package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

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
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// plenty grants so much that no quota comes in the way.
const plenty = `
roles:
  - name: everything
    rules: [{actions: [PREDICT], models: ["*"]}]
    limits: {requests_per_second: 100000000, rows_per_second: 100000000000, max_rows_per_request: 100000, max_streams: 100}
bindings: [{role: everything, callers: ["spiffe://sallyport.test/*"]}]
`

// fair is a real server whose callers compete: every gate, mTLS, ONNX Runtime.
type fair struct {
	address string
	ca      *identitytest.CA
	began   atomic.Int64 // runs that had to wait and have begun

	mu   sync.Mutex // guards what follows
	runs []wait     // of modest callers
}

// wait is how a run waited for its turn.
type wait struct {
	time   time.Duration
	behind int64 // how many runs of all callers began meanwhile
}

// waitKey is under which the context of a run has its *wait.
type waitKey struct{}

// watched is a Runner that tells the fair how its runs waited. When together, all
// callers are one, so that runs have their turns in order of arrival: the queue
// before this one.
type watched struct {
	model.Runner
	fair     *fair
	together bool
}

func (w watched) Run(ctx context.Context, caller string, inputs map[string]*model.Tensor, outputs []string) (map[string]*model.Tensor, error) {
	modest := strings.Contains(caller, "/modest/")
	if w.together {
		caller = "everybody"
	}
	waited := &wait{behind: -w.fair.began.Load()}
	out, err := w.Runner.Run(context.WithValue(ctx, waitKey{}, waited), caller, inputs, outputs)
	if waited.time == 0 {
		waited.behind = 0
	}
	if modest {
		w.fair.mu.Lock()
		defer w.fair.mu.Unlock()
		w.fair.runs = append(w.fair.runs, *waited)
	}
	return out, err
}

// waited is told of runs that have their turn.
func (f *fair) waited(ctx context.Context, d time.Duration) {
	w, _ := ctx.Value(waitKey{}).(*wait)
	w.time = d
	w.behind += f.began.Add(1) - 1
}

// watchedLoader makes watched Runners.
type watchedLoader struct {
	model.Loader
	fair     *fair
	together bool
}

func (l watchedLoader) Load(artifact []byte) (model.Runner, error) {
	r, err := l.Loader.Load(artifact)
	return watched{r, l.fair, l.together}, err
}

// rounds asks the spinning model for a run of n rounds.
func rounds(n int64) *inferencev1.PredictRequest {
	return &inferencev1.PredictRequest{Model: "spinning", Inputs: map[string]*inferencev1.Tensor{
		"n": {DataType: inferencev1.DataType_DATA_TYPE_INT64, Int64Values: []int64{n}},
		"x": {DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{1}, FloatValues: []float32{0}},
	}}
}

// openFair serves the spinning model until close is called, concurrency runs at a
// time.
func openFair(t *testing.T, concurrency int, together bool) (f *fair, closeAll func()) {
	t.Helper()
	f = &fair{ca: identitytest.NewCA(t, "sallyport.test")}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	parsed, err := policy.Parse([]byte(plenty), "policy.yaml")
	must(err)
	index, err := policy.Compile(parsed)
	must(err)
	records, err := audit.Open(audit.Config{Key: audittest.Key(), Dir: t.TempDir(), Logger: log})
	must(err)
	digester, err := audit.NewDigester(make([]byte, audit.KeyBytes))
	must(err)
	engine, err := onnx.Open(onnx.Config{Library: onnxtest.Library(t), Concurrency: concurrency, Waited: f.waited})
	must(err)
	models, err := model.Open(t.Context(), model.Config{Directory: onnxtest.Spinning(t)}, watchedLoader{engine, f, together}, log)
	must(err)
	service, err := inference.New(inference.Config{Models: models, Window: 8, BatchTimeout: time.Minute})
	must(err)
	chain, err := interceptors.New(interceptors.Config{
		Methods:           append(service.Methods(), server.StandardMethods()...),
		Policy:            func() *policy.Index { return index },
		Quota:             quota.New(quota.Config{}),
		Audit:             records,
		Digester:          digester,
		Log:               log,
		MaxMessageBytes:   4 << 20,
		MaxCallDuration:   time.Minute,
		MaxStreamDuration: time.Minute,
	})
	must(err)
	creds, err := identity.NewServerCredentials(
		identitytest.NewSource(f.ca.SVID(t, identity.ServerPath), f.ca.Bundle()),
		identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{f.ca.TrustDomain()}, Refused: func(identity.Refusal) {}})
	must(err)
	srv, err := server.New(server.Config{
		Credentials: creds,
		Chain:       chain,
		Register: func(r grpc.ServiceRegistrar) {
			inferencev1.RegisterPredictionServiceServer(r, service)
			inferencev1.RegisterModelServiceServer(r, service)
		},
		Log: log,
	})
	must(err)
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(err)
	f.address = lis.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, lis) }()
	return f, func() {
		stop()
		end := context.Background()
		if err := errors.Join(<-served, chain.Close(end), models.Close(end), engine.Close(), records.Close()); err != nil {
			t.Error(err)
		}
	}
}

// dial connects as a workload and makes sure that it is answered.
func (f *fair) dial(t *testing.T, svid *identitytest.Source) (inferencev1.PredictionServiceClient, func()) {
	t.Helper()
	creds, err := identity.NewClientCredentials(svid, identity.DefaultServer())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+f.address, grpc.WithTransportCredentials(creds), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	client := inferencev1.NewPredictionServiceClient(conn)
	if _, err := client.Predict(t.Context(), rounds(shortRun)); err != nil {
		t.Fatal(err)
	}
	return client, func() { _ = conn.Close() }
}
