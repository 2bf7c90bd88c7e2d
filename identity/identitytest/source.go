package identitytest

import (
	"errors"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Source gives an SVID and bundles that the test sets, also while it is in use.
// It is an identity.X509Source.
type Source struct {
	svid    atomic.Pointer[x509svid.SVID]
	bundles atomic.Pointer[x509bundle.Set]
}

// NewSource returns a source of the SVID, which may be nil for a workload
// without identity, and the bundles.
func NewSource(svid *x509svid.SVID, bundles ...*x509bundle.Bundle) *Source {
	s := new(Source)
	s.SetSVID(svid)
	s.SetBundles(bundles...)
	return s
}

// SetSVID rotates the SVID.
func (s *Source) SetSVID(svid *x509svid.SVID) { s.svid.Store(svid) }

// SetBundles replaces all bundles.
func (s *Source) SetBundles(bundles ...*x509bundle.Bundle) {
	s.bundles.Store(x509bundle.NewSet(bundles...))
}

// GetX509SVID returns the SVID set last.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	if svid := s.svid.Load(); svid != nil {
		return svid, nil
	}
	return nil, errors.New("no SVID")
}

// GetX509BundleForTrustDomain returns the bundle set last.
func (s *Source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return s.bundles.Load().GetX509BundleForTrustDomain(td)
}
