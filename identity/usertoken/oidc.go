package usertoken

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/identity"
)

// issuer verifies the access tokens of one OIDC issuer.
//
// go-oidc finds the issuer's keys but does not verify the tokens: its verifier is
// for ID tokens, asks for neither exp nor iat, takes the last of duplicate
// claims, lets nbf be 5 minutes away and turns the errors of a key set into text.
type issuer struct {
	cfg         OIDC
	algs        []jose.SignatureAlgorithm
	keys        *keySet
	maxLifetime time.Duration
}

func newIssuer(cfg OIDC, all Config) *issuer {
	is := &issuer{cfg: cfg, maxLifetime: all.MaxLifetime}
	for _, alg := range cfg.Algorithms {
		is.algs = append(is.algs, jose.SignatureAlgorithm(alg))
	}
	is.keys = newKeySet(cfg, all.Now, all.Log)
	return is
}

// verify is who an access token proves, and holds as long as the keys are what
// they are.
func (is *issuer) verify(ctx context.Context, t *token, now time.Time) (*identity.User, holds, error) {
	if !slices.Contains(is.algs, t.alg) {
		return nil, nil, invalid("its algorithm %s is not accepted of issuer %s", clip(string(t.alg)), clip(is.cfg.Issuer))
	}
	if err := t.isAccessToken(); err != nil {
		return nil, nil, err
	}
	set, key, err := is.keys.find(ctx, t.alg, t.kid)
	if err != nil {
		return nil, nil, err
	}
	if err := t.verifySignature(key); err != nil {
		return nil, nil, err
	}
	if err := t.claims.audience(is.cfg.Audiences); err != nil {
		return nil, nil, err
	}
	notAfter, err := t.claims.validity(now, is.maxLifetime, true)
	if err != nil {
		return nil, nil, err
	}
	user, err := is.user(t.claims, notAfter)
	if err != nil {
		return nil, nil, err
	}
	return user, func() bool { return is.keys.has(set) }, nil
}

func (is *issuer) user(c claims, notAfter time.Time) (*identity.User, error) {
	user := &identity.User{Issuer: is.cfg.Issuer, NotAfter: notAfter}
	var err error
	if user.Subject, err = c.text("sub", maxSubject); err != nil {
		return nil, err
	}
	if user.Subject == "" {
		return nil, invalid("it has no sub")
	}
	if user.Groups, err = c.list(is.cfg.GroupsClaim, maxGroups, maxGroup); err != nil {
		return nil, err
	}
	if user.Scopes, err = c.scopes(); err != nil {
		return nil, err
	}
	if user.AMR, err = c.list("amr", maxMethods, maxMethod); err != nil {
		return nil, err
	}
	if user.ACR, err = c.text("acr", maxClass); err != nil {
		return nil, err
	}
	return user, nil
}

// isAccessToken refuses the other tokens that an issuer signs with the same keys.
// The typ of RFC 9068 settles it. Without that typ there is no sure sign: what
// only an ID or logout token has is refused, and what some issuers say in claims
// of their own (typ, token_use) is heeded. The audience is the sure fence: that
// of an ID token is the client.
//
// A token that is bound to a key of its holder (cnf) is refused whatever its typ:
// nobody here would check that the caller has the key.
func (t *token) isAccessToken() error {
	if _, ok := t.claims["cnf"]; ok {
		return invalid("it is bound to a key of its holder (cnf), which is not supported")
	}
	switch t.typ {
	case "at+jwt":
		return nil
	case "jwt", "":
	default:
		return invalid("its typ %s is not that of an access token", clip(t.typ))
	}
	for _, name := range []string{"nonce", "at_hash", "c_hash", "s_hash", "events"} {
		if _, ok := t.claims[name]; ok {
			return invalid("it has %s, so it is no access token", name)
		}
	}
	for name, want := range map[string]string{"typ": "bearer", "token_use": "access"} {
		if v, ok := t.claims[name]; ok {
			if s, _ := v.(string); strings.ToLower(s) != want {
				return invalid("its claim %s is not %q, so it is no access token", name, want)
			}
		}
	}
	return nil
}
