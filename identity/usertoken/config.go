package usertoken

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config says whose tokens are accepted. It must name an OIDC issuer or JWTSVID.
type Config struct {
	// OIDC are the issuers of access tokens; each once.
	OIDC []OIDC
	// JWTSVID is nil unless JWT-SVIDs are accepted.
	JWTSVID *JWTSVID
	// MaxLifetime is the longest that a token may live, from iat to exp; 15 min if
	// zero.
	MaxLifetime time.Duration
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Log gets changes and troubles of issuers' keys, never anything of a token;
	// nothing is logged if it is nil.
	Log *slog.Logger
}

// OIDC is one issuer of access tokens (RFC 9068, and JWT access tokens of before).
type OIDC struct {
	// Issuer is the iss claim, exactly: an https URL, or an http one of a loopback
	// address. Required.
	Issuer string
	// Audiences has us: the aud claim must contain one of them. Required.
	Audiences []string
	// Algorithms of signatures that are accepted; RS256 and ES256 if empty. Only
	// asymmetric ones can be named.
	Algorithms []string
	// JWKSURL is where the keys are, https, or http of a loopback address. If it and
	// JWKSFile are empty, the issuer's discovery document says so.
	JWKSURL string
	// JWKSFile is a file with the keys, read again when it changes. Not with JWKSURL.
	JWKSFile string
	// CAFile is a PEM file with the CAs of the issuer's web server, read at each
	// fetch; the system's if empty.
	CAFile string
	// GroupsClaim is the claim with the user's groups; "groups" if empty.
	GroupsClaim string
	// RefreshInterval is how old keys may be before they are fetched anew, and so how
	// long a key that the issuer has withdrawn is still accepted; 5 min if zero.
	RefreshInterval time.Duration
	// MaxKeyAge is how old keys may be, if they cannot be fetched anew, before nothing
	// of the issuer is accepted; 1 h if zero. Not less than RefreshInterval.
	MaxKeyAge time.Duration
}

// JWTSVID says which JWT-SVIDs are accepted.
type JWTSVID struct {
	// TrustDomains whose workloads are. Required.
	TrustDomains []spiffeid.TrustDomain
	// Audiences has us: the aud claim must contain one of them. Required.
	Audiences []string
	// Bundles has the keys of the domains. It is asked at every call, must not block,
	// and is to say itself when its bundles are too old to be used. Required.
	Bundles jwtbundle.Source
}

// asymmetric are the algorithms that may be configured: those by which who
// verifies cannot sign.
var asymmetric = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// withDefaults is the configuration with what may be left out, shared with nobody.
func (c Config) withDefaults() Config {
	c.MaxLifetime = cmp.Or(c.MaxLifetime, 15*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.OIDC = slices.Clone(c.OIDC)
	for i := range c.OIDC {
		o := &c.OIDC[i]
		o.Audiences = slices.Clone(o.Audiences)
		o.Algorithms = slices.Clone(o.Algorithms)
		if len(o.Algorithms) == 0 {
			o.Algorithms = []string{string(jose.RS256), string(jose.ES256)}
		}
		o.GroupsClaim = cmp.Or(o.GroupsClaim, "groups")
		o.RefreshInterval = cmp.Or(o.RefreshInterval, 5*time.Minute)
		o.MaxKeyAge = cmp.Or(o.MaxKeyAge, time.Hour)
	}
	if c.JWTSVID != nil {
		j := *c.JWTSVID
		j.TrustDomains, j.Audiences = slices.Clone(j.TrustDomains), slices.Clone(j.Audiences)
		c.JWTSVID = &j
	}
	return c
}

// validate returns everything that is wrong with the configuration, defaults set.
func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.OIDC) == 0 && c.JWTSVID == nil {
		fault("no OIDC issuer and no JWT-SVIDs: nothing could be accepted")
	}
	if c.MaxLifetime < 0 {
		fault("longest life of a token: %v is negative", c.MaxLifetime)
	}
	issuers := map[string]bool{}
	for i, o := range c.OIDC {
		if o.Issuer != "" && issuers[o.Issuer] {
			fault("OIDC issuer %q: is there twice", o.Issuer)
		}
		issuers[o.Issuer] = true
		for _, err := range o.faults() {
			fault("OIDC issuer %d (%q): %w", i+1, o.Issuer, err)
		}
	}
	if j := c.JWTSVID; j != nil {
		for _, err := range j.faults() {
			fault("JWT-SVIDs: %w", err)
		}
	}
	return errors.Join(faults...)
}

func (o OIDC) faults() []error {
	faults := audienceFaults(o.Audiences)
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if err := checkURL(o.Issuer); err != nil {
		fault("issuer: %w", err)
	} else if strings.ContainsAny(o.Issuer, "?#") {
		fault("issuer: has a query or a fragment")
	}
	for _, alg := range o.Algorithms {
		if !slices.Contains(asymmetric, jose.SignatureAlgorithm(alg)) {
			fault("algorithm %q: not one of %v", alg, asymmetric)
		}
	}
	if o.JWKSURL != "" && o.JWKSFile != "" {
		fault("keys: both a URL and a file")
	}
	if o.JWKSURL != "" {
		if err := checkURL(o.JWKSURL); err != nil {
			fault("URL of keys: %w", err)
		}
	}
	if o.CAFile != "" {
		if _, err := readCAs(o.CAFile); err != nil {
			faults = append(faults, err)
		}
	}
	switch {
	case o.RefreshInterval < 0:
		fault("refresh interval: %v is negative", o.RefreshInterval)
	case o.MaxKeyAge < o.RefreshInterval:
		fault("greatest age of keys: %v is less than the refresh interval, %v", o.MaxKeyAge, o.RefreshInterval)
	}
	return faults
}

func (j JWTSVID) faults() []error {
	faults := audienceFaults(j.Audiences)
	if len(j.TrustDomains) == 0 {
		faults = append(faults, errors.New("no trust domain"))
	}
	if slices.Contains(j.TrustDomains, spiffeid.TrustDomain{}) {
		faults = append(faults, errors.New("an empty trust domain"))
	}
	if j.Bundles == nil {
		faults = append(faults, errors.New("no source of bundles"))
	}
	return faults
}

func audienceFaults(audiences []string) []error {
	switch {
	case len(audiences) == 0:
		return []error{errors.New("no audience")}
	case slices.Contains(audiences, ""):
		return []error{errors.New("an empty audience")}
	}
	return nil
}

// checkURL holds URLs to https, or http of this machine.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Hostname() == "":
		return errors.New("no URL with a host")
	case u.User != nil:
		return errors.New("the URL has a user or password")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return errors.New("neither https nor http of a loopback address")
}

// isLoopback tells whether host is a loopback address, or localhost, which the
// dialer holds to be one.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}

func readCAs(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s: no certificate in it", file)
	}
	return pool, nil
}
