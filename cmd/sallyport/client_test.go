package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/devauthority"
)

// startAuthority serves the Workload API for the workloads of dev, and one that
// gets no identity.
func startAuthority(t *testing.T) *devauthority.Authority {
	t.Helper()
	authority, err := devauthority.Start(devauthority.Config{
		Dir:       t.TempDir(),
		Workloads: append(devauthority.DefaultWorkloads(), devauthority.Workload{Name: "nobody"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = authority.Close() })
	return authority
}

// startServer serves models and predictions over mTLS as the workload "server"
// of the authority, and returns the address.
func startServer(t *testing.T, authority *devauthority.Authority, s *scriptedServer) string {
	t.Helper()
	source, err := identity.Open(t.Context(), identity.Config{WorkloadAPI: authority.Socket("server")})
	if err != nil {
		t.Fatal(err)
	}
	creds, err := identity.NewServerCredentials(source, identity.ServerConfig{
		TrustDomains: []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("sallyport.test")},
		Refused:      func(identity.Refusal) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(creds))
	inferencev1.RegisterPredictionServiceServer(server, s)
	inferencev1.RegisterModelServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
		_ = source.Close()
	})
	return listener.Addr().String()
}

func TestHandshakes(t *testing.T) {
	authority := startAuthority(t)
	address := startServer(t, authority, &scriptedServer{})
	vacant, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := vacant.Close(); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing.sock")
	for _, tt := range []struct {
		name  string
		flags clientFlags
		code  int
		want  string
	}{
		{name: "path", flags: clientFlags{server: []string{address}, socket: authority.Socket("clinic")}},
		{name: "URI", flags: clientFlags{server: []string{address}, socket: "unix://" + authority.Socket("clinic")}},
		{name: "one of two servers", flags: clientFlags{server: []string{vacant.Addr().String(), address}, socket: authority.Socket("clinic")}},
		{name: "named server", flags: clientFlags{server: []string{address}, socket: authority.Socket("clinic"), serverID: "spiffe://sallyport.test/sallyport"}},
		{
			name:  "another server",
			flags: clientFlags{server: []string{address}, socket: authority.Socket("clinic"), serverID: "spiffe://sallyport.test/other"},
			code:  exitFailed,
			want:  "UNAVAILABLE: the server's identity is not accepted: the server is spiffe://sallyport.test/sallyport, not spiffe://sallyport.test/other",
		},
		{
			name:  "outsider",
			flags: clientFlags{server: []string{address}, socket: authority.Socket("outsider")},
			code:  exitDenied,
			want:  "UNAVAILABLE: the server does not accept our identity spiffe://elsewhere.test/outsider",
		},
		{
			name:  "nobody listens",
			flags: clientFlags{server: []string{vacant.Addr().String()}, socket: authority.Socket("clinic")},
			code:  exitFailed,
			want:  "nobody listens at " + vacant.Addr().String(),
		},
		{
			name:  "no socket there",
			flags: clientFlags{server: []string{address}, socket: missing},
			code:  exitFailed,
			want:  "no SPIFFE Workload API at " + missing + ": the socket does not exist",
		},
		{
			name:  "no socket there, as URI",
			flags: clientFlags{server: []string{address}, socket: "unix://" + missing},
			code:  exitFailed,
			want:  "no SPIFFE Workload API at " + missing + ": the socket does not exist",
		},
		{
			name:  "no identity issued",
			flags: clientFlags{server: []string{address}, socket: authority.Socket("nobody"), timeout: 3 * time.Second},
			code:  exitFailed,
			want:  "issues no identity to this process",
		},
		{name: "no server", flags: clientFlags{socket: missing}, code: exitUsage, want: "give --server HOST:PORT or set SALLYPORT_SERVER"},
		{name: "no port", flags: clientFlags{server: []string{"localhost"}, socket: missing}, code: exitUsage, want: "must be HOST:PORT"},
		{name: "no socket", flags: clientFlags{server: []string{address}}, code: exitUsage, want: "give --socket PATH"},
		{name: "wrong server ID", flags: clientFlags{server: []string{address}, socket: missing, serverID: "sallyport"}, code: exitUsage, want: `--server-id "sallyport"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("SALLYPORT_SERVER", "")
			t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
			start := time.Now()
			err := list(t.Context(), tt.flags)
			if code, text := exitOf(err), errText(err); code != tt.code || !strings.Contains(text, tt.want) {
				t.Errorf("exit %d, error %q, want %d with %q", code, text, tt.code, tt.want)
			}
			// Not the half minute that a call may take, nor the ten seconds for an SVID.
			if took := time.Since(start); took > 9*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestDialEnvironment(t *testing.T) {
	authority := startAuthority(t)
	t.Setenv("SALLYPORT_SERVER", startServer(t, authority, &scriptedServer{}))
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix://"+authority.Socket("clinic"))
	if err := list(t.Context(), clientFlags{}); err != nil {
		t.Error(err)
	}
}

// list makes one call as the commands do.
func list(ctx context.Context, flags clientFlags) error {
	if flags.timeout == 0 {
		flags.timeout = 30 * time.Second
	}
	ctx, cancel, err := flags.bound(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	c, err := dial(ctx, flags)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = inferencev1.NewModelServiceClient(c).ListModels(ctx, &inferencev1.ListModelsRequest{})
	return classify(err)
}

// exitOf is the exit code that main gives err.
func exitOf(err error) int {
	var coded *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.code
	}
	return exitFailed
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
