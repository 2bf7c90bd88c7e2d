package sallyport_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/devauthority"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// patience is how long a test waits for what should come at once, on a machine
// that has much else to do.
const patience = time.Minute

// window is that of the servers' streams.
const window = 4

var (
	home      = spiffeid.RequireTrustDomainFromString("sallyport.test")
	elsewhere = spiffeid.RequireTrustDomainFromString("elsewhere.test") // of the workload outsider
)

const worldPolicy = `
roles:
  - name: everything
    rules:
      - {actions: [PREDICT, PREDICT_STREAM, DESCRIBE], models: ["*"]}
    limits: {requests_per_second: 1e6, rows_per_second: 1e9, max_streams: %d}
bindings:
  - role: everything
    callers: ["spiffe://sallyport.test/clinic/*", "spiffe://elsewhere.test/outsider"]
`

// world is a SPIFFE authority and the address of a server that can be stopped
// and started.
type world struct {
	authority *devauthority.Authority
	dir       string // the authority's
	address   string
	streams   int                       // that a caller may have open on one server
	users     interceptors.UserVerifier // of its servers; may be nil
}

// newWorld starts an authority whose SVIDs hold for ttl.
func newWorld(t testing.TB, ttl time.Duration) *world {
	t.Helper()
	dir := shortDir(t)
	return &world{authority: startAuthority(t, dir, ttl), dir: dir, address: "127.0.0.1:0", streams: 1}
}

// shortDir is a new directory whose path leaves room for the name of a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func startAuthority(t testing.TB, dir string, ttl time.Duration) *devauthority.Authority {
	t.Helper()
	workloads := devauthority.DefaultWorkloads()
	workloads[0].FederatesWith = []spiffeid.TrustDomain{elsewhere} // the server
	authority, err := devauthority.Start(devauthority.Config{Dir: dir, TTL: ttl, Workloads: workloads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := authority.Close(); err != nil {
			t.Error(err)
		}
	})
	return authority
}

// running is a server: its gates, its models, its audit log.
type running struct {
	*server.Server
	listener *listener
	stop     context.CancelFunc
	close    func() error // waits for the end; stop comes first
}

// start starts the server at the world's address, which is the same each time.
func (w *world) start(t testing.TB) *running {
	t.Helper()
	tcp := listen(t, w.address)
	w.address = tcp.Addr().String()
	return w.serve(t, &listener{Listener: tcp}, "server")
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	tcp, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return tcp
}

// credentials are a server's with the identity of a workload, from a source that
// the caller closes.
func (w *world) credentials(t testing.TB, workload string) (credentials.TransportCredentials, *identity.Source) {
	t.Helper()
	source, err := identity.Open(t.Context(), identity.Config{WorkloadAPI: w.authority.Socket(workload)})
	if err != nil {
		t.Fatal(err)
	}
	creds, err := identity.NewServerCredentials(source, identity.ServerConfig{
		TrustDomains: []spiffeid.TrustDomain{home, elsewhere}, Refused: func(identity.Refusal) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	return creds, source
}

// serve starts a server with the identity of a workload.
func (w *world) serve(t testing.TB, listener *listener, workload string) *running {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	creds, source := w.credentials(t, workload)
	parsed, err := policy.Parse(fmt.Appendf(nil, worldPolicy, w.streams), "policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	index, err := policy.Compile(parsed)
	if err != nil {
		t.Fatal(err)
	}
	records, err := audit.Open(audit.Config{Key: audittest.Key(), Dir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	digester, err := audit.NewDigester(make([]byte, audit.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	models, err := model.Open(t.Context(), model.Config{Directory: "../../examples/models"}, onnxtest.Open(t), log)
	if err != nil {
		t.Fatal(err)
	}
	// On a busy machine a call may wait for a run for longer than a server lets it.
	scheduler, err := batch.New(batch.Config{MaxDelay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	service, err := inference.New(inference.Config{Models: models, Scheduler: scheduler, Window: window, BatchTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := interceptors.New(interceptors.Config{
		Methods: append(service.Methods(), server.StandardMethods()...),
		Policy:  func() *policy.Index { return index },
		Quota:   quota.New(quota.Config{}),
		Audit:   records, Digester: digester, Log: log, Users: w.users,
		MaxMessageBytes: 1 << 20, MaxCallDuration: time.Minute, MaxStreamDuration: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{
		Credentials: creds, Chain: chain, Log: log, Drain: service.Drain,
		Register: func(r grpc.ServiceRegistrar) {
			inferencev1.RegisterPredictionServiceServer(r, service)
			inferencev1.RegisterModelServiceServer(r, service)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, listener: listener}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	r.close = sync.OnceValue(func() error {
		r.stop()
		end, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return errors.Join(<-served, chain.Close(end), models.Close(end), records.Close(), source.Close())
	})
	t.Cleanup(func() {
		if err := r.close(); err != nil { // of now: kill changes it
			t.Error(err)
		}
	})
	return r
}

// kill ends the server as a power failure would: its connections are gone, and
// nobody was told.
func (r *running) kill(t testing.TB) {
	t.Helper()
	_ = r.listener.Close()
	r.listener.abort()
	r.Cut()
	if err := r.close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	r.close = func() error { return nil }
}

// listener knows the connections it has accepted.
type listener struct {
	net.Listener
	mu    sync.Mutex // guards conns and deaf
	conns []net.Conn
	deaf  bool          // hangs up on whoever connects
	slow  time.Duration // how long a write takes
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, conn)
	if l.deaf {
		_ = conn.Close()
	}
	if l.slow > 0 {
		return &slowConn{conn, l.slow}, nil
	}
	return conn, nil
}

// slowConn is a connection over a bad network.
type slowConn struct {
	net.Conn
	delay time.Duration
}

func (c *slowConn) Write(p []byte) (int, error) {
	time.Sleep(c.delay)
	return c.Conn.Write(p)
}

// accepted is how many connections there were so far.
func (l *listener) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// refuse hangs up on whoever connects from now on, or no longer.
func (l *listener) refuse(deaf bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = deaf
}

// abort resets every connection.
func (l *listener) abort() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = true
	for _, conn := range l.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// as is a client of the server as one of the authority's workloads.
func (w *world) as(t testing.TB, workload string, cfg sallyport.Config) *sallyport.Client {
	t.Helper()
	if cfg.Servers == nil {
		cfg.Servers = []string{w.address}
	}
	cfg.WorkloadAPI = w.authority.Socket(workload)
	c, err := sallyport.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

const breastCancer = "breast-cancer"

// measurements are rows for breastCancer, all zero, which its contract lets pass.
func measurements(rows int) map[string]*inferencev1.Tensor {
	return map[string]*inferencev1.Tensor{"features": {
		DataType: inferencev1.DataType_DATA_TYPE_FLOAT32,
		Shape:    []int64{int64(rows), 30},
		Raw:      make([]byte, rows*30*4),
	}}
}

// rowsOf makes a batch known by its size.
func rowsOf(sequence uint64) int { return 1 + int(sequence%97) }

// feed sends batches until there are as many, or until stop is closed, and then
// says that there are no more. It returns how many.
func feed(s *sallyport.Stream, most int, stop <-chan struct{}, pause time.Duration) (uint64, error) {
	defer s.CloseSend()
	for n := uint64(0); ; {
		select {
		case <-stop:
			return n, nil
		case <-time.After(pause):
		}
		if most > 0 && n == uint64(most) {
			return n, nil
		}
		sequence, err := s.Send(measurements(rowsOf(n + 1)))
		if err != nil {
			return n, err
		}
		if n++; sequence != n {
			return n, fmt.Errorf("batch %d has the sequence %d", n, sequence)
		}
	}
}

// collect takes the results until the stream ends, whose error it returns unless
// it is io.EOF. Each must be the result of its batch, and come once.
func collect(s *sallyport.Stream, ordered bool) (map[uint64]bool, error) {
	got := map[uint64]bool{}
	for {
		r, err := s.Recv()
		if err != nil {
			return got, err
		}
		n := r.GetSequence()
		if got[n] {
			return got, fmt.Errorf("two results of batch %d", n)
		}
		if ordered && n != uint64(len(got)+1) {
			return got, fmt.Errorf("result of batch %d after %d others", n, len(got))
		}
		got[n] = true
		if rows := r.GetOutputs().GetOutputs()["label"].GetShape(); len(rows) == 0 || rows[0] != int64(rowsOf(n)) {
			return got, fmt.Errorf("batch %d of %d rows has the result %v", n, rowsOf(n), r)
		}
	}
}

// eventually waits until check finds nothing amiss.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	timeout := time.After(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-timeout:
			t.Fatalf("still so after %v: %v", patience, err)
		}
	}
}
