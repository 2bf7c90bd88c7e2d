package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"
)

// X509Source is what credentials need: the SVID to show and the bundles to
// verify with. Both are asked for at every handshake, so a rotation takes
// effect at the next one. Its methods must not block.
type X509Source interface {
	x509svid.Source
	x509bundle.Source
}

// maxID is how long a SPIFFE ID may be, in bytes. The standard sets it, go-spiffe
// does not hold it, and IDs go into records and keys of maps.
const maxID = 2048

// A chain is verified by signature checks that its sender makes dear: x509 tries
// every authority whose subject fits, up to 100 times. SVIDs have few
// intermediates.
const (
	maxChain      = 8
	maxChainBytes = 32 << 10
)

// checkSize refuses certificates that would cost much to verify or to keep.
func checkSize(certs []*x509.Certificate) error {
	bytes := 0
	for _, c := range certs {
		bytes += len(c.Raw)
	}
	if len(certs) > maxChain || bytes > maxChainBytes {
		return fmt.Errorf("a chain of %d certificates with %d bytes, more than %d or %d", len(certs), bytes, maxChain, maxChainBytes)
	}
	return nil
}

// verify returns who the certificates prove the peer to be. They must be an
// X.509-SVID of a workload that chains to the bundle of its own trust domain,
// fit to be used for usage. That the peer has the key is not known yet when
// TLS asks.
func verify(certs []*x509.Certificate, bundles x509bundle.Source, usage x509.ExtKeyUsage) (*Caller, error) {
	if err := checkSize(certs); err != nil {
		return nil, err
	}
	id, chains, err := x509svid.Verify(certs, bundles)
	if err != nil {
		return nil, err
	}
	// The rules of the X.509-SVID standard that x509svid.Verify leaves to
	// x509svid.Parse, which sees only one's own SVIDs.
	leaf := certs[0]
	switch {
	case len(id.String()) > maxID:
		return nil, fmt.Errorf("SPIFFE ID of %d bytes, more than the standard's %d", len(id.String()), maxID)
	case id.Path() == "":
		return nil, fmt.Errorf("%s names a trust domain, not a workload", id)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, fmt.Errorf("certificate of %s lacks key usage digitalSignature", id)
	case !allows(leaf, usage):
		return nil, fmt.Errorf("certificate of %s lacks the extended key usage for its side of the connection", id)
	}
	return &Caller{ID: id, Serial: leaf.SerialNumber.Text(16), NotAfter: end(chains)}, nil
}

// allows tells whether the certificate may be used for usage. One without
// extended key usages may.
func allows(cert *x509.Certificate, usage x509.ExtKeyUsage) bool {
	if len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(cert.ExtKeyUsage, usage) || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// end is when the last of the chains stops to hold, the roots left aside.
func end(chains [][]*x509.Certificate) time.Time {
	var last time.Time
	for _, chain := range chains {
		until := chain[0].NotAfter
		for _, cert := range chain[:len(chain)-1] {
			if cert.NotAfter.Before(until) {
				until = cert.NotAfter
			}
		}
		if until.After(last) {
			last = until
		}
	}
	return last
}

var errNoH2 = errors.New("peer did not negotiate HTTP/2 by ALPN")

// checkALPN is our own check because crypto/tls lets a peer pass that offers no
// protocol at all, or HTTP/1.1 only.
func checkALPN(state tls.ConnectionState) error {
	if state.NegotiatedProtocol != "h2" {
		return errNoH2
	}
	return nil
}

// certificate is the current SVID in the form of crypto/tls.
func certificate(src x509svid.Source) (*tls.Certificate, error) {
	svid, err := src.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("own SVID: %w", err)
	}
	cert := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}

func authInfo(caller *Caller, conn *tls.Conn) *AuthInfo {
	return &AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Caller:         caller,
		State:          conn.ConnectionState(),
	}
}

// common is what both kinds of credentials answer alike.
type common struct{}

func (common) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// OverrideServerName refuses: a peer is known by its SPIFFE ID, not by a host
// name. gRPC does not call it.
func (common) OverrideServerName(string) error { return errors.ErrUnsupported }
