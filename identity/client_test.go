package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
)

var sallyport = spiffeid.RequireFromString("spiffe://sallyport.test/sallyport")

// call makes one call over a connection of its own.
func call(t *testing.T, addr string, src identity.X509Source, authorize spiffeid.Matcher) (*peer.Peer, error) {
	t.Helper()
	creds, err := identity.NewClientCredentials(src, authorize)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p := new(peer.Peer)
	_, err = healthpb.NewHealthClient(conn).Check(ctx, new(healthpb.HealthCheckRequest), grpc.Peer(p))
	return p, err
}

func TestCall(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	day := time.Now().Add(48 * time.Hour).Truncate(time.Second).UTC()
	for _, tt := range []struct {
		name  string
		opts  []identitytest.Option
		until int // index of the certificate whose end is the caller's
	}{
		{name: "plain"},
		{name: "outlives its trust anchor", opts: []identitytest.Option{identitytest.Valid(time.Now(), day)}},
		{
			name:  "outlives its intermediate",
			opts:  []identitytest.Option{identitytest.Valid(time.Now(), day), identitytest.Intermediate()},
			until: 1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()),
				identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home}})
			svid := ca.SVID(t, "/clinic/triage", tt.opts...)
			p, err := call(t, s.addr, identitytest.NewSource(svid, ca.Bundle()), identity.ServerID(sallyport))
			if err != nil {
				t.Fatal(err)
			}
			if refusals := s.stop(); len(refusals) != 0 {
				t.Fatalf("refusals %v", refusals)
			}
			caller := s.callers[0]
			if caller == nil {
				t.Fatal("the call carries no caller")
			}
			want := identity.Caller{
				ID:       clinic,
				Serial:   svid.Certificates[0].SerialNumber.Text(16),
				NotAfter: svid.Certificates[tt.until].NotAfter,
			}
			if *caller != want {
				t.Errorf("caller %+v, want %+v", *caller, want)
			}
			info, ok := p.AuthInfo.(*identity.AuthInfo)
			if !ok {
				t.Fatalf("client got %T", p.AuthInfo)
			}
			if info.Caller.ID != sallyport {
				t.Errorf("client sees server %s", info.Caller.ID)
			}
			if info.State.Version != tls.VersionTLS13 || info.State.NegotiatedProtocol != "h2" {
				t.Errorf("TLS version %#x, protocol %q", info.State.Version, info.State.NegotiatedProtocol)
			}
			if err := credentials.CheckSecurityLevel(info, credentials.PrivacyAndIntegrity); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCallerFromPeerOfOtherKind(t *testing.T) {
	if c := identity.CallerFromPeer(t.Context()); c != nil {
		t.Errorf("no peer: %v", c)
	}
	ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{}})
	if c := identity.CallerFromPeer(ctx); c != nil {
		t.Errorf("other credentials: %v", c)
	}
}

// listenTLS answers connections with bare crypto/tls and one byte.
func listenTLS(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, cfg)
			if conn.HandshakeContext(t.Context()) == nil {
				_, _ = conn.Write([]byte{0})
				_, _ = io.Copy(io.Discard, conn)
			}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

func TestClientHandshake(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	impostor := identitytest.NewCA(t, "sallyport.test")
	friends := identitytest.NewCA(t, "federated.test")
	unknown := identitytest.NewCA(t, "unknown.test")
	past := time.Now().Add(-time.Minute)
	svid := func(opts ...identitytest.Option) *tls.Config { return tlsConfig(ca.SVID(t, "/sallyport", opts...)) }
	with := func(cfg *tls.Config, change func(*tls.Config)) *tls.Config {
		change(cfg)
		return cfg
	}
	exact, byPath := identity.ServerID(sallyport), identity.DefaultServer()
	for _, tt := range []struct {
		name      string
		server    *tls.Config
		authorize spiffeid.Matcher
		refused   string // in the error's text; accepted if empty
		protocol  bool   // it is not the identity that is refused
	}{
		{name: "exact ID", server: svid(), authorize: exact},
		{name: "default server", server: svid(), authorize: byPath},
		{name: "default server of a federated domain", server: tlsConfig(friends.SVID(t, "/sallyport")), authorize: byPath},
		{
			name:   "another workload of the domain",
			server: tlsConfig(ca.SVID(t, "/clinic/triage")), authorize: exact,
			refused: "the server is spiffe://sallyport.test/clinic/triage, not spiffe://sallyport.test/sallyport",
		},
		{
			name:   "not a default server",
			server: tlsConfig(ca.SVID(t, "/sallyport/x")), authorize: byPath,
			refused: "whose path is not /sallyport",
		},
		{
			name:   "same path in a federated domain",
			server: tlsConfig(friends.SVID(t, "/sallyport")), authorize: exact,
			refused: "not spiffe://sallyport.test/sallyport",
		},
		{
			name:   "domain without a bundle",
			server: tlsConfig(unknown.SVID(t, "/sallyport")), authorize: byPath,
			refused: "no X.509 bundle",
		},
		{
			name:   "CA unknown",
			server: tlsConfig(impostor.SVID(t, "/sallyport")), authorize: exact,
			refused: "unknown authority",
		},
		{
			name:   "expired",
			server: svid(identitytest.Valid(past.Add(-time.Hour), past)), authorize: exact,
			refused: "expired",
		},
		{
			name: "for clients only",
			server: svid(identitytest.Mutate(func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			})), authorize: exact,
			refused: "extended key usage",
		},
		{
			name:   "ID of the trust domain itself",
			server: tlsConfig(ca.SVID(t, "")), authorize: func(spiffeid.ID) error { return nil },
			refused: "names a trust domain",
		},
		{
			name:   "TLS 1.2",
			server: with(svid(), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), authorize: exact,
			refused: "protocol version", protocol: true,
		},
		{
			name:   "no ALPN",
			server: with(svid(), func(c *tls.Config) { c.NextProtos = nil }), authorize: exact,
			refused: "ALPN", protocol: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := identitytest.NewSource(ca.SVID(t, "/clinic/triage"), ca.Bundle(), friends.Bundle())
			creds, err := identity.NewClientCredentials(src, tt.authorize)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", listenTLS(t, tt.server))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = raw.Close() }()
			_, _, err = creds.ClientHandshake(t.Context(), "localhost:443", raw)
			if tt.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.refused) {
				t.Fatalf("error %v, want %q", err, tt.refused)
			}
			if got := errors.Is(err, identity.ErrServerRefused); got == tt.protocol {
				t.Errorf("is ErrServerRefused: %v", got)
			}
		})
	}
}

func TestClientDoesNotResume(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	addr := listenTLS(t, tlsConfig(ca.SVID(t, "/sallyport")))
	creds, err := identity.NewClientCredentials(identitytest.NewSource(ca.SVID(t, "/clinic/triage"), ca.Bundle()), identity.DefaultServer())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, info, err := creds.ClientHandshake(t.Context(), "localhost", raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil { // tickets come before it
			t.Fatal(err)
		}
		if info.(*identity.AuthInfo).State.DidResume {
			t.Errorf("connection %d was resumed", i)
		}
		_ = conn.Close()
	}
}

func TestClientHandshakeEndsWithContext(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	creds, err := identity.NewClientCredentials(identitytest.NewSource(ca.SVID(t, "/clinic/triage"), ca.Bundle()), identity.DefaultServer())
	if err != nil {
		t.Fatal(err)
	}
	client, silent := net.Pipe()
	defer func() { _ = silent.Close() }()
	go func() { _, _ = io.Copy(io.Discard, silent) }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := creds.ClientHandshake(ctx, "localhost", client); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// What a person at the client reads, through all of gRPC.
func TestHandshakeCause(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	outside := identitytest.NewCA(t, "elsewhere.test")
	s := serve(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()),
		identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home}})

	_, err := call(t, s.addr, identitytest.NewSource(outside.SVID(t, "/outsider"), ca.Bundle()), identity.DefaultServer())
	if status.Code(err) != codes.Unavailable || !errors.Is(identity.HandshakeCause(err), identity.ErrCallerRefused) {
		t.Errorf("the outsider gets %v", err)
	}
	if want := "the server does not accept our identity spiffe://elsewhere.test/outsider"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want %q", err, want)
	}

	_, err = call(t, s.addr, identitytest.NewSource(ca.SVID(t, "/clinic/triage"), ca.Bundle()), identity.ServerID(clinic))
	if status.Code(err) != codes.Unavailable || !errors.Is(identity.HandshakeCause(err), identity.ErrServerRefused) {
		t.Errorf("with the wrong server: %v", err)
	}

	for _, other := range []error{nil, errors.New("x"), status.Error(codes.NotFound, identity.ErrCallerRefused.Error())} {
		if cause := identity.HandshakeCause(other); cause != nil {
			t.Errorf("cause of %v is %v", other, cause)
		}
	}
}

// gRPC writes before it reads. If the server has hung up by then, the write
// fails; it says why all the same.
func TestWriteSaysWhoRefused(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	s := serve(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()),
		identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{federated}})
	creds, err := identity.NewClientCredentials(identitytest.NewSource(ca.SVID(t, "/clinic/triage"), ca.Bundle()), identity.DefaultServer())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := creds.ClientHandshake(t.Context(), "localhost", raw)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s.stop() // the server has hung up
	for range 1000 {
		if _, err = conn.Write([]byte("x")); err != nil {
			break
		}
	}
	if !errors.Is(err, identity.ErrCallerRefused) {
		t.Errorf("error %v", err)
	}
}

func TestNewClientCredentials(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	if _, err := identity.NewClientCredentials(nil, identity.DefaultServer()); err == nil {
		t.Error("no source: no error")
	}
	if _, err := identity.NewClientCredentials(identitytest.NewSource(nil, ca.Bundle()), nil); err == nil {
		t.Error("no authorizer: no error")
	}
}

func TestCredentialsOfTheWrongSide(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	src := identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle())
	server, err := identity.NewServerCredentials(src, identity.ServerConfig{
		TrustDomains: []spiffeid.TrustDomain{home}, Refused: func(identity.Refusal) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := identity.NewClientCredentials(src, identity.DefaultServer())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := server.Clone().ClientHandshake(t.Context(), "", nil); err == nil {
		t.Error("a client used server credentials")
	}
	if _, _, err := client.Clone().ServerHandshake(nil); err == nil {
		t.Error("a server used client credentials")
	}
}
