package server_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server"
)

// chain is a chain that knows the standard methods only. It tells observe, which
// may be nil, of every RPC.
func chain(t *testing.T, observe func(interceptors.Outcome)) *interceptors.Chain {
	t.Helper()
	log, err := audit.Open(audit.Config{Key: audittest.Key(), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	digester, err := audit.NewDigester(make([]byte, audit.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	c, err := interceptors.New(interceptors.Config{
		Methods:           server.StandardMethods(),
		Policy:            func() *policy.Index { return nil },
		Quota:             quota.New(quota.Config{}),
		Audit:             log,
		Digester:          digester,
		Log:               slog.New(slog.DiscardHandler),
		MaxMessageBytes:   1 << 20,
		MaxCallDuration:   time.Second,
		MaxStreamDuration: time.Second,
		Observe:           observe,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(context.Background()), log.Close()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestInsecureServerCannotBeMade takes away what a server must have, and gives
// it a method that the policy knows nothing of.
func TestInsecureServerCannotBeMade(t *testing.T) {
	good := server.Config{
		Credentials: insecure.NewCredentials(),
		Chain:       chain(t, nil),
		Register:    func(grpc.ServiceRegistrar) {},
		Log:         slog.New(slog.DiscardHandler),
	}
	if _, err := server.New(good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*server.Config)
		want   string
	}{
		"no credentials": {func(c *server.Config) { c.Credentials = nil }, "Credentials"},
		"no chain":       {func(c *server.Config) { c.Chain = nil }, "Chain"},
		"no services":    {func(c *server.Config) { c.Register = nil }, "Register"},
		"no logger":      {func(c *server.Config) { c.Log = nil }, "Log"},
		"a method without an action": {func(c *server.Config) {
			c.Register = func(r grpc.ServiceRegistrar) {
				desc := healthv1.Health_ServiceDesc
				desc.ServiceName = "test.Unknown"
				r.RegisterService(&desc, healthv1.UnimplementedHealthServer{})
			}
		}, "/test.Unknown/"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			if _, err := server.New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %s", err, c.want)
			}
		})
	}
}

// anywhere is a listener that claims to be on every interface.
type anywhere struct{ net.Listener }

func (anywhere) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 1} }

func TestAdminIsForTheLoopbackOnly(t *testing.T) {
	err := server.ServeAdmin(t.Context(), anywhere{}, nil, prometheus.NewRegistry())
	if err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("got %v", err)
	}
}

func TestAdmin(t *testing.T) {
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := make(chan error, 1)
	checks := []server.Check{
		{Name: "fine", Err: func() error { return nil }, Note: func() string { return "two\nlines" }},
		{Name: "sometimes", Err: func() error {
			select {
			case err := <-broken:
				return err
			default:
				return nil
			}
		}},
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.ServeAdmin(ctx, lis, checks, prometheus.NewRegistry()) }()
	get := func(path string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+lis.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	if code, body := get("/livez"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("/livez: %d %q", code, body)
	}
	if code, body := get("/readyz"); code != http.StatusOK || body != "fine: ok: two; lines\nsometimes: ok\n" {
		t.Errorf("/readyz: %d %q", code, body)
	}
	broken <- errors.New("disk full")
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || body != "fine: ok: two; lines\nsometimes: failing: disk full\n" {
		t.Errorf("/readyz: %d %q", code, body)
	}
	if code, _ := get("/metrics"); code != http.StatusOK {
		t.Errorf("/metrics: %d", code)
	}
	if code, _ := get("/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("/debug/pprof: %d", code)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A server does not wait for ever, neither for callers nor for its own handlers.
func TestServeEnds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		cut     bool
		hang    bool   // whether the handler goes on when it is cut off
		want    string // in the error; empty for none
	}{
		{name: "the drain timeout", timeout: 10 * time.Millisecond, want: "have not ended", hang: true},
		{name: "cut off", timeout: time.Hour, cut: true, want: "have not ended", hang: true},
		{name: "cut off, and the handler ends", timeout: time.Hour, cut: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			entered, release := make(chan struct{}), make(chan struct{})
			s, err := server.New(server.Config{
				Credentials: insecure.NewCredentials(),
				Chain: chain(t, func(interceptors.Outcome) {
					close(entered)
					<-release
				}),
				Register: func(grpc.ServiceRegistrar) {},
				Log:      slog.New(slog.DiscardHandler),
				Bounds:   server.Bounds{DrainTimeout: tt.timeout},
			})
			if err != nil {
				t.Fatal(err)
			}
			s.SetPatience(time.Hour)
			if tt.hang {
				s.SetPatience(10 * time.Millisecond)
			}
			lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx, lis) }()
			conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			called := make(chan struct{})
			go func() {
				defer close(called)
				_, _ = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
			}()
			<-entered
			if err := s.Draining().Err(); err != nil {
				t.Errorf("before it stops: %v", err)
			}
			stop()
			if tt.cut {
				s.Cut()
			}
			if !tt.hang {
				close(release)
			}
			err = <-served
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if s.Draining().Err() == nil {
				t.Error("it is not stopping")
			}
			if tt.hang {
				close(release)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			<-called
		})
	}
}
