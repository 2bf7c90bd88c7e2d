package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
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
	"github.com/sallyport/sallyport/server/batch"
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

// ground is a real server: every gate, mTLS, ONNX Runtime.
type ground struct {
	address string
	ca      *identitytest.CA
	records *audit.Log
	dir     string // of the records
}

// openGround serves the models of a directory until close is called; watch may put
// something before the scheduler.
func openGround(t testing.TB, dir string, cfg batch.Config, watch func(*batch.Scheduler) inference.Scheduler) (g *ground, closeAll func()) {
	t.Helper()
	g = &ground{ca: identitytest.NewCA(t, "sallyport.test"), dir: t.TempDir()}
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
	g.records, err = audit.Open(audit.Config{Key: audittest.Key(), Dir: g.dir, Logger: log})
	must(err)
	digester, err := audit.NewDigester(make([]byte, audit.KeyBytes))
	must(err)
	engine, err := onnx.Open(onnx.Config{Library: onnxtest.Library(t)})
	must(err)
	models, err := model.Open(t.Context(), model.Config{Directory: dir}, engine, log)
	must(err)
	scheduler, err := batch.New(cfg)
	must(err)
	service, err := inference.New(inference.Config{
		Models: models, Scheduler: watch(scheduler), Window: 8, BatchTimeout: time.Minute,
	})
	must(err)
	chain, err := interceptors.New(interceptors.Config{
		Methods:           append(service.Methods(), server.StandardMethods()...),
		Policy:            func() *policy.Index { return index },
		Quota:             quota.New(quota.Config{}),
		Audit:             g.records,
		Digester:          digester,
		Log:               log,
		MaxMessageBytes:   4 << 20,
		MaxCallDuration:   time.Minute,
		MaxStreamDuration: time.Minute,
	})
	must(err)
	creds, err := identity.NewServerCredentials(
		identitytest.NewSource(g.ca.SVID(t, identity.ServerPath), g.ca.Bundle()),
		identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{g.ca.TrustDomain()}, Refused: func(identity.Refusal) {}})
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
	g.address = lis.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, lis) }()
	return g, func() {
		stop()
		end := context.Background()
		if err := errors.Join(<-served, chain.Close(end), models.Close(end), engine.Close(), g.records.Close()); err != nil {
			t.Error(err)
		}
	}
}

// dial connects as a workload and makes sure that its first call is answered.
func (g *ground) dial(t testing.TB, svid *identitytest.Source, first *inferencev1.PredictRequest) (inferencev1.PredictionServiceClient, func()) {
	t.Helper()
	creds, err := identity.NewClientCredentials(svid, identity.DefaultServer())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+g.address, grpc.WithTransportCredentials(creds), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	client := inferencev1.NewPredictionServiceClient(conn)
	if _, err := client.Predict(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	return client, func() { _ = conn.Close() }
}
