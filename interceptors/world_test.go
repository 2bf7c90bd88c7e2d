package interceptors_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server"
	scheduling "github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// worldPolicy has no aliases: protoyaml does not take them.
var worldPolicy = strings.ReplaceAll(`
roles:
  - name: reader
    rules:
      - actions: [PREDICT, PREDICT_STREAM, DESCRIBE]
        models: [breast-cancer, ticket-routing, absent]
    limits: PLENTY
  - name: describer
    rules:
      - actions: [DESCRIBE]
        models: ["*"]
    limits: PLENTY
  - name: inspector
    rules:
      - actions: [INTROSPECT]
    limits: PLENTY
  - name: everything
    rules:
      - actions: [PREDICT, PREDICT_STREAM, DESCRIBE, INTROSPECT]
        models: ["*"]
    limits: PLENTY
  - name: poor
    rules:
      - actions: [PREDICT, PREDICT_STREAM]
        models: [breast-cancer]
    limits: {requests_per_second: 0.01, request_burst: 3, rows_per_second: 0.01, row_burst: 6, max_rows_per_request: 5, max_streams: 1}
  - name: narrow
    rules:
      - {actions: [PREDICT_STREAM], models: [breast-cancer]}
    limits: {requests_per_second: 100, rows_per_second: 100, max_streams: 1}
  - name: wide
    rules:
      - {actions: [PREDICT_STREAM], models: [digits]}
    limits: {requests_per_second: 100, rows_per_second: 100, max_streams: 50}
bindings:
  - {role: narrow, callers: ["spiffe://sallyport.test/two/roles"]}
  - {role: wide, callers: ["spiffe://sallyport.test/two/roles"]}
  - {role: reader, callers: ["spiffe://sallyport.test/clinic/*"]}
  - {role: describer, callers: ["spiffe://sallyport.test/describer"]}
  - {role: inspector, callers: ["spiffe://sallyport.test/inspector"]}
  - {role: everything, callers: ["spiffe://sallyport.test/admin"]}
  - {role: poor, callers: ["spiffe://sallyport.test/poor/*"]}
`, "PLENTY", "{requests_per_second: 100000000, rows_per_second: 1000000000, max_rows_per_request: 10000, max_streams: 100}")

// maxMessage is small, so that a message too large is cheap to make.
const maxMessage = 64 << 10

// world is a real server with everything it needs, on loopback.
type world struct {
	address  string
	ca       *identitytest.CA
	auditDir string
	audit    *audit.Log
	chain    *interceptors.Chain
	cfg      interceptors.Config
	policy   atomic.Pointer[policy.Index]
	shadow   atomic.Pointer[policy.Index]
	source   *identitytest.Source
	tls      *identity.ServerCredentials // nil if insecure
	// ahead is how far the gates' clock is ahead.
	ahead atomic.Int64
}

// worldOptions change the world from the usual one.
type worldOptions struct {
	without  []string // stages taken out of the chain
	insecure bool     // no TLS
	maxCall  time.Duration
	users    interceptors.UserVerifier
	change   func(*interceptors.Config)
}

func newWorld(tb testing.TB, opts worldOptions) *world {
	tb.Helper()
	w := &world{ca: identitytest.NewCA(tb, "sallyport.test"), auditDir: tb.TempDir()}
	log := slog.New(slog.DiscardHandler)
	w.setPolicy(tb, worldPolicy)
	var err error
	if w.audit, err = audit.Open(audit.Config{Key: audittest.Key(), Dir: w.auditDir, Logger: log}); err != nil {
		tb.Fatal(err)
	}
	digester, err := audit.NewDigester(make([]byte, audit.KeyBytes))
	if err != nil {
		tb.Fatal(err)
	}
	models, err := model.Open(tb.Context(), model.Config{Directory: "../examples/models"}, onnxtest.Open(tb), log)
	if err != nil {
		tb.Fatal(err)
	}
	// On a busy machine a call may wait for a run for longer than a server lets it.
	scheduler, err := scheduling.New(scheduling.Config{MaxDelay: time.Hour})
	if err != nil {
		tb.Fatal(err)
	}
	service, err := inference.New(inference.Config{Models: models, Scheduler: scheduler, Window: 8, BatchTimeout: 30 * time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	if opts.maxCall == 0 {
		opts.maxCall = 30 * time.Second
	}
	cfg := interceptors.Config{
		Methods:           append(append(service.Methods(), server.StandardMethods()...), faultMethods()...),
		Policy:            w.policy.Load,
		Quota:             quota.New(quota.Config{}),
		Audit:             w.audit,
		Digester:          digester,
		Shadow:            w.shadow.Load,
		Users:             opts.users,
		Log:               log,
		MaxMessageBytes:   maxMessage,
		MaxCallDuration:   opts.maxCall,
		MaxStreamDuration: opts.maxCall,
		Now:               func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
	}
	if opts.change != nil {
		opts.change(&cfg)
	}
	chain, err := interceptors.NewWithout(cfg, opts.without...)
	w.chain, w.cfg = chain, cfg
	if err != nil {
		tb.Fatal(err)
	}
	creds := insecure.NewCredentials()
	if !opts.insecure {
		w.source = identitytest.NewSource(w.ca.SVID(tb, identity.ServerPath), w.ca.Bundle())
		w.tls, err = identity.NewServerCredentials(w.source, identity.ServerConfig{
			TrustDomains: []spiffeid.TrustDomain{w.ca.TrustDomain()},
			Admit:        w.admit,
			Refused:      func(identity.Refusal) {},
		})
		if err != nil {
			tb.Fatal(err)
		}
		creds = w.tls
	}
	srv, err := server.New(server.Config{
		Credentials: creds,
		Chain:       chain,
		Register: func(r grpc.ServiceRegistrar) {
			inferencev1.RegisterPredictionServiceServer(r, service)
			inferencev1.RegisterModelServiceServer(r, service)
			r.RegisterService(&faultService, struct{}{})
		},
		Log:    log,
		Bounds: server.Bounds{DrainTimeout: 2 * time.Second},
	})
	if err != nil {
		tb.Fatal(err)
	}
	lis, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	w.address = lis.Addr().String()
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, lis) }()
	tb.Cleanup(func() {
		stop()
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(<-done, chain.Close(end), models.Close(end), w.audit.Close()); err != nil {
			tb.Error(err)
		}
	})
	return w
}

// setPolicy puts a policy in force for what comes; what is open follows when it
// is rechecked.
func (w *world) setPolicy(tb testing.TB, yaml string) {
	tb.Helper()
	w.policy.Store(compile(tb, yaml))
}

func compile(tb testing.TB, yaml string) *policy.Index {
	tb.Helper()
	p, err := policy.Parse([]byte(yaml), "policy.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	ix, err := policy.Compile(p)
	if err != nil {
		tb.Fatal(err)
	}
	return ix
}

// admit lets nobody in whom the policy blocks. Tests that need a blocked caller to
// reach the gates block it after it has connected.
func (w *world) admit(caller *identity.Caller, peer net.Addr) error {
	d := w.policy.Load().MayEver(policy.Request{Caller: caller.ID, Address: interceptors.PeerAddress(peer), Action: policy.None})
	if d.Outcome == policy.CallerBlocked || d.Outcome == policy.AddressBlocked {
		return errors.New(d.Detail)
	}
	return nil
}

// creds are the credentials of a workload of the world's trust domain.
func (w *world) creds(tb testing.TB, path string) credentials.TransportCredentials {
	tb.Helper()
	creds, err := identity.NewClientCredentials(
		identitytest.NewSource(w.ca.SVID(tb, path), w.ca.Bundle()), identity.DefaultServer())
	if err != nil {
		tb.Fatal(err)
	}
	return creds
}

// dial connects as the workload; "" is a caller without TLS.
func (w *world) dial(tb testing.TB, path string, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	creds := insecure.NewCredentials()
	if path != "" {
		creds = w.creds(tb, path)
	}
	conn, err := grpc.NewClient(w.address, append(opts, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dialWith connects with the source's SVID.
func (w *world) dialWith(tb testing.TB, source *identitytest.Source) *grpc.ClientConn {
	tb.Helper()
	creds, err := identity.NewClientCredentials(source, identity.DefaultServer())
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(creds))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// reasonOf is the reason of a refusal; empty if it has none.
func reasonOf(st *status.Status) interceptors.Reason {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return interceptors.Reason(info.GetReason())
		}
	}
	return ""
}

// recorded returns the records of calls that match. A call that was answered has
// its record; one that ended elsewhere gets it soon, so it waits for the first.
func (w *world) recorded(tb testing.TB, match func(*auditv1.Record) bool) []*auditv1.Record {
	tb.Helper()
	for patience := time.Now().Add(2 * time.Second); ; {
		// A record that is appended now is behind all that were queued before.
		err := w.audit.Append(tb.Context(), &auditv1.Record{Kind: auditv1.Kind_KIND_EVENT}, audit.Required)
		if err != nil && !errors.Is(err, audit.ErrUnavailable) {
			tb.Fatal(err)
		}
		var found []*auditv1.Record
		for rec, err := range (audit.View{Dir: w.auditDir}).Records(tb.Context(), 0) {
			if err != nil {
				tb.Fatal(err)
			}
			if rec.GetKind() == auditv1.Kind_KIND_CALL && match(rec) {
				found = append(found, rec)
			}
		}
		if len(found) > 0 || err != nil || time.Now().After(patience) {
			return found
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// faultService misbehaves on request.
var faultService = grpc.ServiceDesc{
	ServiceName: "sallyport.test.Faults",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "Panic", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := dec(&emptypb.Empty{}); err != nil {
				return nil, err
			}
			panic("a secret of the handler")
		}},
		{MethodName: "Foreign", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := dec(&emptypb.Empty{}); err != nil {
				return nil, err
			}
			return nil, errors.New("a secret of the handler")
		}},
		{MethodName: "Hang", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := dec(&emptypb.Empty{}); err != nil {
				return nil, err
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}},
		{MethodName: "Slow", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := dec(&emptypb.Empty{}); err != nil {
				return nil, err
			}
			<-ctx.Done() // and answers all the same
			return &emptypb.Empty{}, nil
		}},
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "PanicStream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
				return err
			}
			panic("a secret of the handler")
		}},
		{StreamName: "ForeignStream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
				return err
			}
			return errors.New("a secret of the handler")
		}},
		{StreamName: "HangStream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
				return err
			}
			<-ss.Context().Done()
			return ss.Context().Err()
		}},
	},
}

func faultMethods() []interceptors.Method {
	var out []interceptors.Method
	for _, name := range []string{"Panic", "Foreign", "Hang", "Slow", "PanicStream", "ForeignStream", "HangStream"} {
		out = append(out, interceptors.Method{
			FullMethod: "/sallyport.test.Faults/" + name,
			Action:     policy.Introspect,
			New:        func() proto.Message { return &emptypb.Empty{} },
		})
	}
	return out
}

// drain reads a stream to its end and returns the error that ended it; nil for
// a regular end.
func drain(recv func() error) error {
	for {
		if err := recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
