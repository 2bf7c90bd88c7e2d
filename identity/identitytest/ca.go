// Package identitytest makes throwaway SPIFFE authorities and X.509-SVIDs, good
// and bad ones, for tests. Keys are ECDSA P-256 and never leave memory.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// CA is the authority of one trust domain.
type CA struct {
	td   spiffeid.TrustDomain
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes an authority for a trust domain such as "sallyport.test", valid
// for a day. Two of the same domain do not trust each other.
func NewCA(tb testing.TB, trustDomain string) *CA {
	tb.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		tb.Fatal(err)
	}
	ca := &CA{td: td, key: newKey(tb)}
	template := ca.authority("root")
	ca.cert = create(tb, template, template, ca.key.Public(), ca.key)
	return ca
}

// TrustDomain is the domain of the authority.
func (ca *CA) TrustDomain() spiffeid.TrustDomain { return ca.td }

// Bundle is what verifies the authority's SVIDs.
func (ca *CA) Bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(ca.td, []*x509.Certificate{ca.cert})
}

// Option makes an SVID differ from a plain good one.
type Option func(*issue)

type issue struct {
	template     *x509.Certificate
	intermediate *intermediate // nil if there is none
}

type intermediate struct{ opts []Option }

// Valid sets the validity; an hour around now unless given.
func Valid(notBefore, notAfter time.Time) Option {
	return Mutate(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = notBefore, notAfter })
}

// DNS adds DNS names.
func DNS(names ...string) Option {
	return Mutate(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, names...) })
}

// Mutate changes the certificate's template in any way, before it is signed.
func Mutate(f func(*x509.Certificate)) Option {
	return func(i *issue) { f(i.template) }
}

// Intermediate has the SVID signed by an intermediate authority, whose
// certificate follows the leaf. Options are of that certificate.
func Intermediate(opts ...Option) Option {
	return func(i *issue) { i.intermediate = &intermediate{opts} }
}

// SVID issues an SVID for the ID with the given path, such as
// "/clinic/triage"; "" for the ID of the trust domain itself. Its key is its
// own.
func (ca *CA) SVID(tb testing.TB, path string, opts ...Option) *x509svid.SVID {
	tb.Helper()
	id := ca.td.ID()
	if path != "" {
		var err error
		if id, err = spiffeid.FromPath(ca.td, path); err != nil {
			tb.Fatal(err)
		}
	}
	now := time.Now()
	i := &issue{template: &x509.Certificate{
		Subject:               pkix.Name{CommonName: "identitytest"},
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}}
	for _, opt := range opts {
		opt(i)
	}
	key := newKey(tb)
	if i.intermediate == nil {
		leaf := create(tb, i.template, ca.cert, key.Public(), ca.key)
		return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{leaf}, PrivateKey: key}
	}
	middleKey := newKey(tb)
	of := &issue{template: ca.authority("intermediate")}
	for _, opt := range i.intermediate.opts {
		opt(of)
	}
	middle := create(tb, of.template, ca.cert, middleKey.Public(), ca.key)
	leaf := create(tb, i.template, middle, key.Public(), middleKey)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{leaf, middle}, PrivateKey: key}
}

func (ca *CA) authority(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: "identitytest " + name},
		URIs:                  []*url.URL{ca.td.ID().URL()},
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func newKey(tb testing.TB) crypto.Signer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func create(tb testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// LoadCA is the authority whose key and certificate are in a PEM file, as package
// devauthority keeps them: to issue what it would not.
func LoadCA(tb testing.TB, path string) *CA {
	tb.Helper()
	raw, err := os.ReadFile(path) //nolint:gosec // a file of the test
	if err != nil {
		tb.Fatal(err)
	}
	ca := new(CA)
	for block, rest := pem.Decode(raw); block != nil && ca.cert == nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				tb.Fatal(err)
			}
			ca.key, _ = key.(crypto.Signer)
		case "CERTIFICATE":
			if ca.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if ca.key == nil || ca.cert == nil {
		tb.Fatalf("%s has no key and certificate", path)
	}
	ca.td, err = spiffeid.TrustDomainFromURI(ca.cert.URIs[0])
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

// Own is the authority's own certificate with its key, as if it were an SVID.
func (ca *CA) Own() *x509svid.SVID {
	return &x509svid.SVID{ID: ca.td.ID(), Certificates: []*x509.Certificate{ca.cert}, PrivateKey: ca.key}
}
