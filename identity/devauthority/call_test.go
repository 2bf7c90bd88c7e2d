package devauthority_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/devauthority"
)

// TestCall is the whole way: two workloads prove to each other who they are with
// what they got from their sockets, and a third cannot.
func TestCall(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t)})
	open := func(name string) *identity.Source {
		src, err := identity.Open(t.Context(), identity.Config{WorkloadAPI: a.Socket(name)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = src.Close() })
		return src
	}
	refusals := make(chan identity.Refusal, 8)
	creds, err := identity.NewServerCredentials(open("server"), identity.ServerConfig{
		TrustDomains: []spiffeid.TrustDomain{home, elsewhere}, // of the second it has no bundle
		Refused:      func(r identity.Refusal) { refusals <- r },
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(creds))
	callers := make(who, 1)
	healthpb.RegisterHealthServer(s, callers)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(listener) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	call := func(name string) error {
		creds, err := identity.NewClientCredentials(open(name), identity.DefaultServer())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = healthpb.NewHealthClient(conn).Check(ctx, new(healthpb.HealthCheckRequest))
		return err
	}

	if err := call("clinic"); err != nil {
		t.Fatal(err)
	}
	if caller := <-callers; caller.ID.String() != "spiffe://sallyport.test/clinic/triage" {
		t.Errorf("caller %s", caller.ID)
	}
	if err := call("outsider"); identity.HandshakeCause(err) != identity.ErrCallerRefused { //nolint:errorlint // it returns the sentinel itself
		t.Errorf("the outsider gets %v", err)
	}
	if r := <-refusals; r.Claimed.String() != "spiffe://elsewhere.test/outsider" {
		t.Errorf("refused %s: %v", r.Claimed, r.Err)
	}
}

type who chan *identity.Caller

func (w who) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	w <- identity.CallerFromPeer(ctx)
	return new(healthpb.HealthCheckResponse), nil
}

func (who) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	return nil, status.Error(codes.Unimplemented, "")
}

func (who) Watch(*healthpb.HealthCheckRequest, grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	return status.Error(codes.Unimplemented, "")
}
