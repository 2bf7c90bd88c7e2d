package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sallyport/sallyport/identity"
)

// server is a real gRPC server that keeps who called it and whom it refused.
type server struct {
	healthpb.UnimplementedHealthServer
	addr string
	grpc *grpc.Server

	mu       sync.Mutex // guards what follows
	callers  []*identity.Caller
	refusals []identity.Refusal
}

func (s *server) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.callers = append(s.callers, identity.CallerFromPeer(ctx))
	return new(healthpb.HealthCheckResponse), nil
}

// stop waits for all handshakes and returns what was refused.
func (s *server) stop() []identity.Refusal {
	s.grpc.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusals
}

func serve(t *testing.T, src identity.X509Source, cfg identity.ServerConfig, opts ...grpc.ServerOption) *server {
	t.Helper()
	s := new(server)
	cfg.Refused = func(r identity.Refusal) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refusals = append(s.refusals, r)
	}
	creds, err := identity.NewServerCredentials(src, cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	s.grpc = grpc.NewServer(append(opts, grpc.Creds(creds))...)
	healthpb.RegisterHealthServer(s.grpc, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.grpc.Serve(listener) })
	t.Cleanup(func() {
		s.grpc.Stop()
		serving.Wait()
	})
	return s
}

// knock makes a TLS connection and reads the server's first byte, which is the
// first sign in TLS 1.3 that the server accepts the client.
func knock(t *testing.T, addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, cfg)
	defer func() { _ = conn.Close() }()
	if err := conn.HandshakeContext(t.Context()); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err = conn.Read(make([]byte, 1))
	return conn.ConnectionState(), err
}

// tlsConfig is what a well-behaved client with this SVID uses.
func tlsConfig(svid *x509svid.SVID) *tls.Config {
	cert := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2"},
		Certificates:       []tls.Certificate{cert},
		InsecureSkipVerify: true,
	}
}

var (
	home      = spiffeid.RequireTrustDomainFromString("sallyport.test")
	federated = spiffeid.RequireTrustDomainFromString("federated.test")
	clinic    = spiffeid.RequireFromString("spiffe://sallyport.test/clinic/triage")
	blocked   = spiffeid.RequireFromString("spiffe://sallyport.test/clinic/stolen")
)

var errBlocked = errors.New("blocked: key leaked")

func admit(c *identity.Caller, _ net.Addr) error {
	if c.ID == blocked {
		return errBlocked
	}
	return nil
}
