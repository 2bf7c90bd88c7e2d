package devauthority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	caLifetime = 365 * 24 * time.Hour
	// backdate is how far certificates reach into the past, for clocks that are set
	// back a little.
	backdate = 10 * time.Second
)

// ca is the authority of one trust domain. It is immutable.
type ca struct {
	td   spiffeid.TrustDomain
	key  crypto.Signer
	cert *x509.Certificate
	// older are the certificates of CAs before this one that are still in the
	// bundle.
	older []formerCA
}

// formerCA is a CA that no longer signs.
type formerCA struct {
	cert   *x509.Certificate
	leaves time.Time // the bundle; not after it expires
}

// openCA loads the CA of a trust domain from dir. It makes and stores a new one
// if there is none or the one there has little time left.
func openCA(dir string, td spiffeid.TrustDomain, now time.Time) (*ca, error) {
	path := statePath(dir, td)
	old, err := loadCA(path, td)
	if err != nil {
		return nil, err
	}
	var fresh *ca
	switch {
	case old == nil:
		fresh, err = newCA(td, now)
	case now.Add(caLifetime / 4).Before(old.cert.NotAfter):
		return old.without(now), nil
	default:
		fresh, err = old.rotated(now, caLifetime)
	}
	if err != nil {
		return nil, fmt.Errorf("new CA of %s: %w", td, err)
	}
	return fresh, storeCA(path, fresh)
}

// rotated is a new CA in whose bundle the old one stays for keep.
func (c *ca) rotated(now time.Time, keep time.Duration) (*ca, error) {
	fresh, err := newCA(c.td, now)
	if err != nil {
		return nil, err
	}
	leaves := now.Add(keep)
	if c.cert.NotAfter.Before(leaves) {
		leaves = c.cert.NotAfter
	}
	fresh.older = append([]formerCA{{c.cert, leaves}}, c.older...)
	return fresh.without(now), nil
}

// without is the CA without the older ones whose time has come.
func (c *ca) without(now time.Time) *ca {
	next := *c
	next.older = slices.DeleteFunc(slices.Clone(c.older), func(f formerCA) bool { return !now.Before(f.leaves) })
	return &next
}

func newCA(td spiffeid.TrustDomain, now time.Time) (*ca, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Sallyport development authority"}, CommonName: td.Name()},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &ca{td: td, key: key, cert: cert}, nil
}

// bundle is what verifies the CA's SVIDs: DER certificates one after the other.
func (c *ca) bundle() []byte {
	der := slices.Clone(c.cert.Raw)
	for _, old := range c.older {
		der = append(der, old.cert.Raw...)
	}
	return der
}

// issue makes an SVID with a key of its own, as DER and PKCS #8.
func (c *ca) issue(w Workload, now time.Time, ttl time.Duration) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	notAfter := now.Add(ttl)
	if c.cert.NotAfter.Before(notAfter) {
		notAfter = c.cert.NotAfter
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Sallyport development authority"}},
		URIs:                  []*url.URL{w.ID.URL()},
		DNSNames:              w.DNSNames,
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if cert, err = x509.CreateCertificate(rand.Reader, template, c.cert, private.Public(), c.key); err != nil {
		return nil, nil, err
	}
	if key, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return nil, nil, err
	}
	return cert, key, nil
}
