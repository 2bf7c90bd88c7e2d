package identity_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
)

func TestServerHandshake(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	impostor := identitytest.NewCA(t, "sallyport.test")
	friends := identitytest.NewCA(t, "federated.test")
	known := identitytest.NewCA(t, "known.test")
	absent := identitytest.NewCA(t, "absent.test")
	now := time.Now()

	svid := func(opts ...identitytest.Option) *tls.Config {
		return tlsConfig(ca.SVID(t, "/clinic/triage", opts...))
	}
	mutate := identitytest.Mutate
	with := func(cfg *tls.Config, change func(*tls.Config)) *tls.Config {
		change(cfg)
		return cfg
	}
	truncated := ca.SVID(t, "/clinic/triage", identitytest.Intermediate())
	truncated.Certificates = truncated.Certificates[:1]
	keyless := ca.SVID(t, "/clinic/triage")
	keyless.PrivateKey = impostor.SVID(t, "/clinic/triage").PrivateKey

	for _, tt := range []struct {
		name    string
		client  *tls.Config
		refused string      // in the refusal's text; admitted if empty
		claimed spiffeid.ID // in the refusal
	}{
		{name: "good", client: svid()},
		{name: "good, of a federated domain", client: tlsConfig(friends.SVID(t, "/partner"))},
		{name: "good, with intermediate", client: svid(identitytest.Intermediate())},
		{name: "good, without extended key usage", client: svid(mutate(func(c *x509.Certificate) { c.ExtKeyUsage = nil }))},
		{
			name:    "no certificate",
			client:  with(svid(), func(c *tls.Config) { c.Certificates = nil }),
			refused: "didn't provide a certificate",
		},
		{
			name:    "CA unknown",
			client:  tlsConfig(impostor.SVID(t, "/clinic/triage")),
			refused: "unknown authority", claimed: clinic,
		},
		{
			name:    "self-signed",
			client:  tlsConfig(selfSigned(t, ca)),
			refused: "unknown authority", claimed: clinic,
		},
		{
			name:    "certificate of another without its key",
			client:  tlsConfig(keyless),
			refused: "invalid signature", claimed: clinic,
		},
		{
			name:    "trust domain with a bundle, but not allowed",
			client:  tlsConfig(known.SVID(t, "/clinic/triage")),
			refused: `"known.test" may not connect`, claimed: spiffeid.RequireFromString("spiffe://known.test/clinic/triage"),
		},
		{
			name:    "trust domain allowed, but without a bundle",
			client:  tlsConfig(absent.SVID(t, "/clinic/triage")),
			refused: "no X.509 bundle", claimed: spiffeid.RequireFromString("spiffe://absent.test/clinic/triage"),
		},
		{
			name:    "ID of one domain signed by another that is allowed too",
			client:  tlsConfig(friends.SVID(t, "/x", mutate(func(c *x509.Certificate) { c.URIs = []*url.URL{clinic.URL()} }))),
			refused: "unknown authority", claimed: clinic,
		},
		{
			name:    "expired",
			client:  svid(identitytest.Valid(now.Add(-2*time.Hour), now.Add(-time.Minute))),
			refused: "expired", claimed: clinic,
		},
		{
			name:    "not yet valid",
			client:  svid(identitytest.Valid(now.Add(time.Minute), now.Add(time.Hour))),
			refused: "not yet valid", claimed: clinic,
		},
		{
			name:    "CA as leaf",
			client:  svid(mutate(func(c *x509.Certificate) { c.IsCA = true })),
			refused: "CA flag", claimed: clinic,
		},
		{
			name:    "key usage of a CA",
			client:  svid(mutate(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, c.KeyUsage|x509.KeyUsageCRLSign })),
			refused: "KeyCrlSign", claimed: clinic,
		},
		{
			name:    "no key usage digitalSignature",
			client:  svid(mutate(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })),
			refused: "digitalSignature", claimed: clinic,
		},
		{
			name:    "for servers only",
			client:  svid(mutate(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })),
			refused: "extended key usage", claimed: clinic,
		},
		{
			name:    "two URI SANs",
			client:  svid(mutate(func(c *x509.Certificate) { c.URIs = append(c.URIs, blocked.URL()) })),
			refused: "more than one URI SAN",
		},
		{
			name:    "no URI SAN",
			client:  svid(mutate(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"clinic"} })),
			refused: "no URI SAN",
		},
		{
			name: "URI that is no SPIFFE ID",
			client: svid(mutate(func(c *x509.Certificate) {
				c.URIs[0] = &url.URL{Scheme: "https", Host: "sallyport.test", Path: "/clinic"}
			})),
			refused: "scheme is missing or invalid",
		},
		{
			name:    "ID of the trust domain itself",
			client:  tlsConfig(ca.SVID(t, "")),
			refused: "names a trust domain", claimed: home.ID(),
		},
		{
			name:    "ID longer than the standard allows",
			client:  tlsConfig(ca.SVID(t, "/"+strings.Repeat("x", 2048-len("spiffe://sallyport.test")))),
			refused: "SPIFFE ID of 2049 bytes",
		},
		{name: "good, longest ID", client: tlsConfig(ca.SVID(t, "/"+strings.Repeat("x", 2047-len("spiffe://sallyport.test"))))},
		{
			name:    "a chain too long",
			client:  tlsConfig(stuffed(t, ca, 8)),
			refused: "a chain of 9 certificates", claimed: clinic,
		},
		{
			name:    "a chain too large",
			client:  tlsConfig(padded(t, ca)),
			refused: "a chain of 2 certificates with", claimed: clinic,
		},
		{
			name:    "intermediate missing",
			client:  tlsConfig(truncated),
			refused: "unknown authority", claimed: clinic,
		},
		{
			name:    "blocked",
			client:  tlsConfig(ca.SVID(t, "/clinic/stolen")),
			refused: "not admitted: blocked: key leaked", claimed: blocked,
		},
		{
			name:    "TLS 1.2",
			client:  with(svid(), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
			refused: "unsupported versions",
		},
		{
			name:    "no ALPN",
			client:  with(svid(), func(c *tls.Config) { c.NextProtos = nil }),
			refused: "ALPN", claimed: clinic,
		},
		{
			name:    "HTTP/1.1 by ALPN",
			client:  with(svid(), func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }),
			refused: "ALPN", claimed: clinic,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle(), friends.Bundle(), known.Bundle())
			s := serve(t, src, identity.ServerConfig{
				TrustDomains: []spiffeid.TrustDomain{home, federated, absent.TrustDomain()},
				Admit:        admit,
			})
			_, err := knock(t, s.addr, tt.client)
			refusals := s.stop()
			if tt.refused == "" {
				if err != nil || len(refusals) != 0 {
					t.Fatalf("not admitted: %v, refusals %v", err, refusals)
				}
				return
			}
			if err == nil {
				t.Fatal("admitted")
			}
			if len(refusals) != 1 {
				t.Fatalf("reported %d times: %v", len(refusals), refusals)
			}
			r := refusals[0]
			if !strings.Contains(r.Err.Error(), tt.refused) {
				t.Errorf("refused with %q, want %q", r.Err, tt.refused)
			}
			if r.Claimed != tt.claimed {
				t.Errorf("claimed %q, want %q", r.Claimed, tt.claimed)
			}
			if host, _, _ := net.SplitHostPort(r.Peer.String()); host != "127.0.0.1" {
				t.Errorf("peer %s", r.Peer)
			}
		})
	}
}

func selfSigned(t *testing.T, ca *identitytest.CA) *x509svid.SVID {
	svid := ca.SVID(t, "/clinic/triage")
	der, err := x509.CreateCertificate(rand.Reader, svid.Certificates[0], svid.Certificates[0], svid.PrivateKey.Public(), svid.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if svid.Certificates[0], err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return svid
}

func TestServerRefusalKeepsTypes(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	past := time.Now().Add(-time.Minute)
	s := serve(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()),
		identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home}, Admit: admit})
	_, _ = knock(t, s.addr, tlsConfig(ca.SVID(t, "/clinic/stolen")))
	_, _ = knock(t, s.addr, tlsConfig(ca.SVID(t, "/clinic/triage", identitytest.Valid(past.Add(-time.Hour), past))))
	refusals := s.stop()
	if len(refusals) != 2 {
		t.Fatalf("refusals %v", refusals)
	}
	isBlocked := func(r identity.Refusal) bool { return errors.Is(r.Err, errBlocked) }
	isExpired := func(r identity.Refusal) bool {
		invalid, ok := errors.AsType[x509.CertificateInvalidError](r.Err)
		return ok && invalid.Reason == x509.Expired
	}
	if !slices.ContainsFunc(refusals, isBlocked) || !slices.ContainsFunc(refusals, isExpired) {
		t.Errorf("types lost: %v", refusals)
	}
}

func TestAdmitByAddress(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	s := serve(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), identity.ServerConfig{
		TrustDomains: []spiffeid.TrustDomain{home},
		Admit: func(_ *identity.Caller, peer net.Addr) error {
			if tcp, ok := peer.(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
				return errBlocked
			}
			return nil
		},
	})
	if _, err := knock(t, s.addr, tlsConfig(ca.SVID(t, "/clinic/triage"))); err == nil {
		t.Error("admitted")
	}
}

func TestServerFollowsItsSource(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	first, second := ca.SVID(t, "/sallyport"), ca.SVID(t, "/sallyport")
	src := identitytest.NewSource(first, ca.Bundle())
	s := serve(t, src, identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home}})
	client := tlsConfig(ca.SVID(t, "/clinic/triage"))
	serial := func() string {
		t.Helper()
		state, err := knock(t, s.addr, client)
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}

	if got, want := serial(), first.Certificates[0].SerialNumber.String(); got != want {
		t.Errorf("serial %s, want %s", got, want)
	}
	src.SetSVID(second)
	if got, want := serial(), second.Certificates[0].SerialNumber.String(); got != want {
		t.Errorf("serial %s after rotation, want %s", got, want)
	}
	src.SetBundles()
	if _, err := knock(t, s.addr, client); err == nil {
		t.Error("admitted after the bundle is gone")
	}
	src.SetBundles(ca.Bundle())
	src.SetSVID(nil)
	if _, err := knock(t, s.addr, client); err == nil {
		t.Error("admitted by a server without SVID")
	}
	if refusals := s.stop(); len(refusals) != 2 {
		t.Errorf("refusals %v", refusals)
	}
}

func TestNewServerCredentials(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	src := identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle())
	refused := func(identity.Refusal) {}
	for _, tt := range []struct {
		name string
		src  identity.X509Source
		cfg  identity.ServerConfig
		want string
	}{
		{"no source", nil, identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home}, Refused: refused}, "no source"},
		{"no trust domain", src, identity.ServerConfig{Refused: refused}, "no trust domain"},
		{"zero trust domain", src, identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home, {}}, Refused: refused}, "is empty"},
		{"no observer", src, identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{home}}, "nobody is told"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := identity.NewServerCredentials(tt.src, tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

var _ identity.X509Source = (*identitytest.Source)(nil)

// stuffed is an SVID with n certificates behind it that pose as its CA.
func stuffed(t *testing.T, ca *identitytest.CA, n int) *x509svid.SVID {
	t.Helper()
	svid := ca.SVID(t, "/clinic/triage")
	impostor := identitytest.NewCA(t, "sallyport.test").Own().Certificates[0]
	for range n {
		svid.Certificates = append(svid.Certificates, impostor)
	}
	return svid
}

// padded has an intermediate of 40 KB.
func padded(t *testing.T, ca *identitytest.CA) *x509svid.SVID {
	t.Helper()
	return ca.SVID(t, "/clinic/triage", identitytest.Intermediate(identitytest.DNS(strings.Repeat(strings.Repeat("x", 50)+".", 800)+"test")))
}
