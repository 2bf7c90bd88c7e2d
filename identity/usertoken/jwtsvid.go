package usertoken

import (
	"crypto"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/sallyport/sallyport/identity"
)

// svidAlgorithms are those of the JWT-SVID standard, to which jwtsvid holds each
// token.
var svidAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512,
}

// svids verifies JWT-SVIDs.
type svids struct {
	cfg         JWTSVID
	maxLifetime time.Duration
}

// verify is which workload a JWT-SVID proves, and holds as long as the bundle of
// its trust domain has the key. The standard asks for sub, aud and exp, not for
// iat: without it the token may have no more than the longest life ahead.
func (s *svids) verify(t *token, now time.Time) (*identity.User, holds, error) {
	subject, err := t.claims.text("sub", maxSubject)
	if err != nil {
		return nil, nil, err
	}
	id, err := spiffeid.FromString(subject)
	if err != nil {
		return nil, nil, invalid("its sub is not a SPIFFE ID: %w", err)
	}
	if id.Path() == "" {
		return nil, nil, invalid("its sub names a trust domain, not a workload")
	}
	td := id.TrustDomain()
	if !slices.Contains(s.cfg.TrustDomains, td) {
		return nil, nil, invalid("JWT-SVIDs of trust domain %s are not accepted", clip(td.Name()))
	}
	key, err := s.key(td, t.kid, t.alg)
	if err != nil {
		return nil, nil, err
	}
	if err := t.claims.audience(s.cfg.Audiences); err != nil {
		return nil, nil, err
	}
	notAfter, err := t.claims.validity(now, s.maxLifetime, false)
	if err != nil {
		return nil, nil, err
	}
	if _, err := jwtsvid.ParseAndValidate(t.raw, s.cfg.Bundles, s.cfg.Audiences); err != nil {
		// It looks at the end, which it lets pass for a minute more, after the signature
		// and all else. Its error quotes claims.
		if strings.HasSuffix(err.Error(), "token has expired") {
			return nil, nil, expired(notAfter, now)
		}
		return nil, nil, invalid("it is not a JWT-SVID, or its signature is not of key %s", clip(t.kid))
	}
	user := &identity.User{Issuer: td.IDString(), Subject: subject, NotAfter: notAfter}
	kid, alg := t.kid, t.alg
	return user, func() bool {
		again, err := s.key(td, kid, alg)
		return err == nil && equal(again, key)
	}, nil
}

// key is the one of the bundle that the token names.
func (s *svids) key(td spiffeid.TrustDomain, kid string, alg jose.SignatureAlgorithm) (crypto.PublicKey, error) {
	bundle, err := s.cfg.Bundles.GetJWTBundleForTrustDomain(td)
	if err != nil {
		return nil, wrap(identity.ErrKeysUnavailable, "no bundle of trust domain %s", clip(td.Name()))
	}
	key, ok := bundle.FindJWTAuthority(kid)
	if !ok || !fits(key, alg) {
		return nil, invalid("trust domain %s has no key %s for %s", clip(td.Name()), clip(kid), alg)
	}
	return key, nil
}

func equal(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
