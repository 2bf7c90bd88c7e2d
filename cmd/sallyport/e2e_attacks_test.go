package main_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
)

// badHandshake is a connection that must not come to be.
type badHandshake struct {
	name   string
	knock  func(net.Conn) error
	reason string // on record
}

// speakTLS knocks with a TLS client that takes any server. In TLS 1.3 the server's
// first byte is the first sign that it let the client in.
func speakTLS(cfg *tls.Config) func(net.Conn) error {
	return func(raw net.Conn) error {
		conn := tls.Client(raw, cfg)
		if err := conn.HandshakeContext(context.Background()); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
}

// say knocks with these bytes and hangs up, or waits for the server to do so.
func say(text string, hangUp bool) func(net.Conn) error {
	return func(raw net.Conn) error {
		if _, err := raw.Write([]byte(text)); err != nil {
			return err
		}
		if hangUp {
			return errors.Join(raw.(*net.TCPConn).CloseWrite(), errors.New("left"))
		}
		for {
			if _, err := raw.Read(make([]byte, 64)); err != nil {
				return err
			}
		}
	}
}

// show is the TLS client that shows the SVID.
func show(svid *x509svid.SVID, change ...func(*tls.Config)) func(net.Conn) error {
	cert := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}
	for _, f := range change {
		f(cfg)
	}
	return speakTLS(cfg)
}

func badHandshakes(t *testing.T, ca, partner *identitytest.CA) []badHandshake {
	const path = "/clinic/triage"
	svid := func(opts ...identitytest.Option) *x509svid.SVID { return ca.SVID(t, path, opts...) }
	mutate := identitytest.Mutate
	uri := func(text string) identitytest.Option {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return mutate(func(c *x509.Certificate) { c.URIs = []*url.URL{u} })
	}
	now := time.Now()
	impostor := identitytest.NewCA(t, "sallyport.test")
	truncated := svid(identitytest.Intermediate())
	truncated.Certificates = truncated.Certificates[:1]
	swapped := svid(identitytest.Intermediate())
	swapped.Certificates[0], swapped.Certificates[1] = swapped.Certificates[1], swapped.Certificates[0]
	keyless := svid()
	keyless.PrivateKey = impostor.SVID(t, path).PrivateKey

	const rejected, missing, expired, unfinished = "IDENTITY_REJECTED", "IDENTITY_MISSING", "IDENTITY_EXPIRED", "HANDSHAKE_UNFINISHED"
	return []badHandshake{
		{"no certificate", show(svid(), func(c *tls.Config) { c.GetClientCertificate = nil }), missing},
		{"CA unknown", show(impostor.SVID(t, path)), rejected},
		{"self-signed", show(selfSigned(t, "spiffe://sallyport.test"+path)), rejected},
		{"self-signed CA in the chain", show(func() *x509svid.SVID {
			s := impostor.SVID(t, path)
			s.Certificates = append(s.Certificates, impostor.Own().Certificates...)
			return s
		}()), rejected},
		{"certificate of another without its key", show(keyless), rejected},
		{"trust domain that may not connect", show(identitytest.NewCA(t, "elsewhere.test").SVID(t, "/outsider")), rejected},
		{"trust domain allowed, without a bundle", show(identitytest.NewCA(t, "absent.test").SVID(t, path)), rejected},
		{"ID of our domain, signed by the federated one", show(partner.SVID(t, path, uri("spiffe://sallyport.test"+path))), rejected},
		{"expired", show(svid(identitytest.Valid(now.Add(-time.Hour), now.Add(-time.Second)))), expired},
		{"not yet valid", show(svid(identitytest.Valid(now.Add(time.Hour), now.Add(2*time.Hour)))), rejected},
		{"the CA itself", show(ca.Own()), rejected},
		{"CA flag on the leaf", show(svid(mutate(func(c *x509.Certificate) { c.IsCA = true }))), rejected},
		{"key usage certSign", show(svid(mutate(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }))), rejected},
		{"key usage cRLSign", show(svid(mutate(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }))), rejected},
		{"no key usage digitalSignature", show(svid(mutate(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }))), rejected},
		{"for servers only", show(svid(mutate(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))), rejected},
		{"for code signing", show(svid(mutate(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }))), rejected},
		{"two URI SANs", show(svid(mutate(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }))), missing},
		{"no URI SAN", show(svid(mutate(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"clinic"} }))), missing},
		{"https URI", show(svid(uri("https://sallyport.test/clinic"))), missing},
		{"root-path ID", show(ca.SVID(t, "")), rejected},
		{"ID with a query", show(svid(uri("spiffe://sallyport.test/clinic/triage?admin=1"))), missing},
		{"ID with user info", show(svid(uri("spiffe://root@sallyport.test/clinic/triage"))), missing},
		{"ID with a port", show(svid(uri("spiffe://sallyport.test:443/clinic/triage"))), missing},
		{"ID with dot segments", show(svid(uri("spiffe://sallyport.test/ward/../clinic/triage"))), missing},
		{"ID with an escape", show(svid(uri("spiffe://sallyport.test/clinic%2ftriage"))), missing},
		{"trust domain in capitals", show(svid(uri("spiffe://SALLYPORT.test/clinic/triage"))), missing},
		{"ID longer than the standard allows", show(ca.SVID(t, "/"+strings.Repeat("x", 2048))), missing},
		{"intermediate missing", show(truncated), rejected},
		{"intermediate before the leaf", show(swapped), rejected},
		{"blocked", show(ca.SVID(t, "/clinic/stolen")), "CALLER_BLOCKED"},
		{"TLS 1.2", show(svid(), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), missing},
		{"no ALPN", show(svid(), func(c *tls.Config) { c.NextProtos = nil }), rejected},
		{"HTTP/1.1 by ALPN", show(svid(), func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }), rejected},
		{"resumption of a session of another server", resume(t, ca), missing},
		{"plaintext HTTP/2", say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false), missing},
		{"plaintext HTTP/1.1", say("GET / HTTP/1.1\r\nHost: x\r\n\r\n", false), missing},
		{"noise", say(strings.Repeat("\x16\x03\x01\xff\xff\x00", 100), false), missing},
		{"a hello cut short", say("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", true), unfinished},
		{"nothing", say("", true), unfinished},
	}
}

// selfSigned is a certificate for the ID that vouches for itself.
func selfSigned(t *testing.T, id string) *x509svid.SVID {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parsed := spiffeid.RequireFromString(id)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{parsed.URL()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &x509svid.SVID{ID: parsed, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

// resume offers the ticket of a session that asked for no certificate, made by a
// server that has the same name and an SVID of the same CA.
func resume(t *testing.T, ca *identitytest.CA) func(net.Conn) error {
	t.Helper()
	svid := ca.SVID(t, identity.ServerPath)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey}},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err == nil {
			_, _ = conn.Write([]byte{0})
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
	}()
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: "localhost",
		InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	conn, err := tls.Dial("tcp", listener.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil { // tickets come before it
		t.Fatal(err)
	}
	_ = conn.Close()
	<-done
	_ = listener.Close()
	if _, ok := cfg.ClientSessionCache.Get("localhost"); !ok {
		t.Fatal("no ticket to offer")
	}
	return speakTLS(cfg)
}

// Bad handshakes and bad tokens: the server refuses each, has each on record once,
// and answers a good caller after them all.
func TestAttacks(t *testing.T) {
	const audience = "sallyport"
	issuer := identitytest.NewIssuer(t)
	dir := newConfig(t, "")
	write(t, dir+"/sallyport.yaml", strings.Replace(config, "  trust_domains: [sallyport.test]\n", fmt.Sprintf(`
  trust_domains: [sallyport.test, partner.test, absent.test]
  users:
    oidc:
      - issuer: %q
        audiences: [%s]
        ca_file: %q
`, issuer.URL(), audience, issuer.CAFile()), 1))
	write(t, dir+"/policy.yaml", generous+"blocked: [{callers: ['spiffe://sallyport.test/clinic/stolen'], reason: stolen key}]\n")
	startAuthority(t, dir, time.Hour)
	s := startServe(t, dir)
	ca := identitytest.LoadCA(t, dir+"/authority/sallyport.test.pem")
	partner := identitytest.LoadCA(t, dir+"/authority/partner.test.pem")

	good := s.as(t, "clinic")
	answered := func() {
		t.Helper()
		if _, err := good.predict(t.Context(), breastCancer); err != nil {
			t.Fatalf("a good caller: %v", err)
		}
		// And one that shows what the bad ones are made of.
		if err := show(ca.SVID(t, "/clinic/triage"))(dialRaw(t, s.address)); err != nil {
			t.Fatalf("a good handshake: %v", err)
		}
	}
	answered()

	bad := badHandshakes(t, ca, partner)
	peers := make(map[string]badHandshake)
	for _, b := range bad {
		raw := dialRaw(t, s.address)
		peers[raw.LocalAddr().String()] = b
		if err := b.knock(raw); err == nil {
			t.Errorf("%s: let in", b.name)
		}
		_ = raw.Close()
	}
	eventually(t, func() error {
		if n := s.metrics(t).value("sallyport_handshakes_refused_total"); int(n) < len(bad) {
			return fmt.Errorf("%v handshakes refused", n)
		}
		return nil
	})
	answered()

	tokens := identitytest.BadTokens(t, issuer, audience)
	want := map[error]string{identity.ErrTokenInvalid: "TOKEN_INVALID", identity.ErrTokenExpired: "TOKEN_EXPIRED"}
	calls := make(map[string]identitytest.BadToken)
	for _, b := range tokens {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+b.Token)
		id, err := good.predict(ctx, breastCancer)
		if code := status.Code(err); id == "" && (code == codes.Internal || code == codes.ResourceExhausted) {
			continue // not even a header that gRPC sends: counted below
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: answered with %v", b.Name, err)
		}
		calls[id] = b
	}
	if len(calls) < 40 {
		t.Errorf("only %d of %d bad tokens reached the server", len(calls), len(tokens))
	}
	proof := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+issuer.Token(t, issuer.Claims(audience)))
	proved, err := good.predict(proof, breastCancer)
	if err != nil {
		t.Fatalf("a good token: %v", err)
	}
	answered()
	if _, body, err := s.get(t.Context(), "/readyz"); err != nil || !strings.Contains(body, "users: ok: 1 issuer\n") {
		t.Errorf("/readyz: %v\n%s", err, body)
	}

	seen := make(map[string]int)
	for _, r := range s.records(t) {
		if r.GetKind() == auditv1.Kind_KIND_HANDSHAKE {
			b, ok := peers[r.GetPeerAddress()]
			if !ok {
				t.Errorf("record of a handshake that was none: %v", r)
				continue
			}
			seen[b.name]++
			if b.name == "blocked" && r.GetClaimedId() != "spiffe://sallyport.test/clinic/stolen" {
				t.Errorf("%s: claimed %q", b.name, r.GetClaimedId())
			}
			if r.GetReason() != b.reason {
				t.Errorf("%s: on record as %s (%s), want %s", b.name, r.GetReason(), r.GetDetail(), b.reason)
			}
		}
		if b, ok := calls[r.GetCallId()]; ok {
			seen["token: "+b.Name]++
			if r.GetReason() != want[b.Want] || r.GetUser() != nil {
				t.Errorf("token %s: on record as %s, user %v, want %s", b.Name, r.GetReason(), r.GetUser(), want[b.Want])
			}
		}
		if r.GetCallId() == proved && (r.GetUser().GetSubject() != "alice" || r.GetUser().GetIssuer() != issuer.URL()) {
			t.Errorf("the good token's user on record: %v", r.GetUser())
		}
	}
	for _, b := range bad {
		if seen[b.name] != 1 {
			t.Errorf("%s: %d records", b.name, seen[b.name])
		}
	}
	for _, b := range calls {
		if seen["token: "+b.Name] != 1 {
			t.Errorf("token %s: %d records", b.Name, seen["token: "+b.Name])
		}
	}
	everything := s.stderr.String() + s.stdout.String()
	segments, err := filepath.Glob(dir + "/audit/*")
	if err != nil || len(segments) == 0 {
		t.Fatalf("no audit log: %v", err)
	}
	for _, path := range segments {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		everything += string(content)
	}
	for _, b := range tokens {
		for part := range strings.SplitSeq(b.Token, ".") {
			if len(part) > 20 && strings.Contains(everything, part) {
				t.Errorf("token %s: a part of it is in a log", b.Name)
			}
		}
	}
	t.Logf("%d bad handshakes and %d of %d bad tokens refused and recorded; the rest gRPC does not send", len(bad), len(calls), len(tokens))
}

func dialRaw(t *testing.T, address string) net.Conn {
	t.Helper()
	raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	if err := raw.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return raw
}
