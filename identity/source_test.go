package identity_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/devauthority"
	"github.com/sallyport/sallyport/identity/identitytest"
)

// shortDir is a temporary folder in whose path a unix socket's name fits.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func startAuthority(t *testing.T, cfg devauthority.Config) *devauthority.Authority {
	t.Helper()
	a, err := devauthority.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func open(t *testing.T, cfg identity.Config) *identity.Source {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	src, err := identity.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

func TestOpenAddress(t *testing.T) {
	dir := filepath.Join(shortDir(t), "with space")
	a := startAuthority(t, devauthority.Config{Dir: dir, Workloads: devauthority.DefaultWorkloads()})
	socket := a.Socket("clinic")
	for _, tt := range []struct{ name, configured, environment string }{
		{"path", socket, ""},
		{"URI", "unix://" + strings.ReplaceAll(socket, " ", "%20"), ""},
		{"environment", "", "unix://" + strings.ReplaceAll(socket, " ", "%20")},
		{"configured wins", socket, "unix:///nowhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("SPIFFE_ENDPOINT_SOCKET", tt.environment)
			svid, err := open(t, identity.Config{WorkloadAPI: tt.configured}).GetX509SVID()
			if err != nil {
				t.Fatal(err)
			}
			if svid.ID != clinic {
				t.Errorf("SVID of %s", svid.ID)
			}
		})
	}
}

func TestOpenFails(t *testing.T) {
	dir := shortDir(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	authority := startAuthority(t, devauthority.Config{Dir: dir, Workloads: []devauthority.Workload{{Name: "nobody"}}})
	unix := func(name string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path(name)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	unix("silent")
	dead := unix("dead")
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	other := grpc.NewServer()
	healthpb.RegisterHealthServer(other, healthpb.UnimplementedHealthServer{})
	listener := unix("other")
	var serving sync.WaitGroup
	serving.Go(func() { _ = other.Serve(listener) })
	t.Cleanup(func() {
		other.Stop()
		serving.Wait()
	})
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")

	for _, tt := range []struct {
		name, address string
		want          []string
	}{
		{"no address", "", []string{"workload_api", "SPIFFE_ENDPOINT_SOCKET"}},
		{"unusable address", "tcp://localhost", []string{"tcp://localhost", "IP:port"}},
		{"two slashes", "unix://tmp/x.sock", []string{"unix:///tmp/x.sock"}},
		{"path too long", "/" + strings.Repeat("x", 108), []string{"109 bytes", "107"}},
		{"no socket", path("absent"), []string{path("absent"), "no identity within", "does not exist"}},
		{"nobody listens", path("dead"), []string{path("dead"), "nobody listens"}},
		{"nothing answers", path("silent"), []string{path("silent"), "nothing answers"}},
		{"another service", path("other"), []string{path("other"), "is not a SPIFFE Workload API"}},
		{"not registered", authority.Socket("nobody"), []string{authority.Socket("nobody"), "registration entry", "no identity issued"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := identity.Open(t.Context(), identity.Config{WorkloadAPI: tt.address, StartTimeout: 3 * time.Second})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
	t.Run("context done", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := identity.Open(ctx, identity.Config{WorkloadAPI: path("absent")}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestHint(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}, "may not open"},
		{fmt.Errorf("x: %w", fs.ErrNotExist), "does not exist"},
		{errors.New("anything else"), "does not issue"},
	} {
		if got := identity.Hint(tt.err); !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

// next waits for an update, with a bound.
func next(t *testing.T, updated <-chan struct{}) {
	t.Helper()
	select {
	case <-updated:
	case <-time.After(10 * time.Second):
		t.Fatal("no update")
	}
}

func TestSourceFollowsRotation(t *testing.T) {
	a := startAuthority(t, devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads(), TTL: 2 * time.Second})
	src := open(t, identity.Config{WorkloadAPI: a.Socket("outsider")})
	updated := src.Updated()
	first, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if got := src.NotAfter(); !got.Equal(first.Certificates[0].NotAfter) {
		t.Errorf("ends at %v", got)
	}
	elsewhere := spiffeid.RequireTrustDomainFromString("elsewhere.test")
	if got := src.TrustDomains(); !slices.Equal(got, []spiffeid.TrustDomain{elsewhere, home}) {
		t.Errorf("trust domains %v", got)
	}

	next(t, updated)
	second, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if first.Certificates[0].Equal(second.Certificates[0]) {
		t.Error("the SVID is still the first")
	}
	if time.Now().After(first.Certificates[0].NotAfter) {
		t.Error("the second SVID came after the first had expired")
	}
}

func TestSourceOutlivesItsAuthority(t *testing.T) {
	cfg := devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads()}
	a := startAuthority(t, cfg)
	src := open(t, identity.Config{WorkloadAPI: a.Socket("clinic")})
	updated := src.Updated()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := src.GetX509SVID(); err != nil {
		t.Errorf("without the authority: %v", err)
	}
	startAuthority(t, cfg)
	next(t, updated)
}

// agent is a Workload API that answers the first request with an error on which
// go-spiffe gives up.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	first  sync.Once
	code   codes.Code
	answer *workload.X509SVIDResponse
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) (err error) {
	a.first.Do(func() { err = status.Error(a.code, "going away") })
	if err != nil {
		return err
	}
	if err := stream.Send(a.answer); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// TestOpenWantsJWTBundles: an agent without the JWT profile cannot give what was
// asked for.
func TestOpenWantsJWTBundles(t *testing.T) {
	t.Parallel()
	socket := serveAgent(t, &agent{code: codes.Unavailable, answer: answer(t)})
	_, err := identity.Open(t.Context(), identity.Config{WorkloadAPI: socket, StartTimeout: 2 * time.Second, JWTBundles: true})
	if err == nil || !strings.Contains(err.Error(), "no JWT bundles within 2s") {
		t.Errorf("error %v", err)
	}
}

// answer is an update of a Workload API.
func answer(t *testing.T) *workload.X509SVIDResponse {
	ca := identitytest.NewCA(t, "sallyport.test")
	cert, key, err := ca.SVID(t, "/clinic/triage").MarshalRaw()
	if err != nil {
		t.Fatal(err)
	}
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: clinic.String(), X509Svid: cert, X509SvidKey: key,
		Bundle: ca.Bundle().X509Authorities()[0].Raw,
	}}}
}

// serveAgent returns the socket of a Workload API.
func serveAgent(t *testing.T, a *agent) string {
	t.Helper()
	socket := filepath.Join(shortDir(t), "agent.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, a)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(listener) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return socket
}

func TestSourceDoesNotGiveUp(t *testing.T) {
	update := answer(t)
	for _, code := range []codes.Code{codes.Canceled, codes.InvalidArgument} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			socket := serveAgent(t, &agent{code: code, answer: update})
			src := open(t, identity.Config{WorkloadAPI: socket, StartTimeout: 10 * time.Second})
			if since, err := src.Away(); !since.IsZero() || err != nil {
				t.Errorf("away since %v: %v", since, err)
			}
		})
	}
}

func TestSourceClosed(t *testing.T) {
	a := startAuthority(t, devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads()})
	src := open(t, identity.Config{WorkloadAPI: a.Socket("clinic")})
	updated := src.Updated()
	for range 2 {
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
	}
	next(t, updated)
	next(t, src.Updated())
	if _, err := src.GetX509SVID(); err == nil {
		t.Error("SVID from a closed source")
	}
	if _, err := src.GetX509BundleForTrustDomain(home); err == nil {
		t.Error("bundle from a closed source")
	}
	if len(src.TrustDomains()) != 0 || !src.NotAfter().IsZero() {
		t.Error("a closed source still has something")
	}
	if _, _, err := src.GetX509Context(); err == nil {
		t.Error("SVID and bundles from a closed source")
	}
}

// The agent is looked for often, however long it has been away.
func TestRetry(t *testing.T) {
	wait := identity.NewBackoff()
	var got []time.Duration
	for range 7 {
		got = append(got, wait.Next())
	}
	wait.Reset()
	got = append(got, wait.Next())
	want := []time.Duration{1e9, 2e9, 2e9, 2e9, 2e9, 2e9, 2e9, 1e9}
	if !slices.Equal(got, want) {
		t.Errorf("waits %v, want %v", got, want)
	}
}
