// Package usertoken verifies the token that a call carries to be made on behalf of
// a user: an access token of an OIDC issuer, or a JWT-SVID.
//
// A token is taken only in the one canonical form of a signed JWT, by an
// asymmetric algorithm of its issuer's list, with a key that the issuer publishes
// now, meant for one of our audiences, and with a short life. Everything else is
// refused, and so is everything while an issuer's keys cannot be had.
package usertoken

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/identity"
)

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	algs    []jose.SignatureAlgorithm // those that anyone's token may have
	issuers map[string]*issuer
	svids   *svids // nil if JWT-SVIDs are not accepted
	cache   cache
	now     func() time.Time
}

// New starts to fetch the issuers' keys and returns without waiting for them: an
// issuer that is down is tried again, and until then its tokens get
// identity.ErrKeysUnavailable. The error lists everything that is wrong with the
// configuration. The values of ctx are used, its end is not: the caller closes
// the verifier.
func New(ctx context.Context, cfg Config) (*Verifier, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("tokens of users: %w", err)
	}
	v := &Verifier{issuers: map[string]*issuer{}, now: cfg.Now}
	for _, o := range cfg.OIDC {
		is := newIssuer(o, cfg)
		v.issuers[o.Issuer] = is
		v.algs = append(v.algs, is.algs...)
	}
	if cfg.JWTSVID != nil {
		v.svids = &svids{cfg: *cfg.JWTSVID, maxLifetime: cfg.MaxLifetime}
		v.algs = append(v.algs, svidAlgorithms...)
	}
	slices.Sort(v.algs)
	v.algs = slices.Compact(v.algs)
	for _, is := range v.issuers {
		is.keys.start(context.WithoutCancel(ctx))
	}
	return v, nil
}

// Close ends what fetches keys and waits for it. Tokens of OIDC issuers are not
// accepted any more. Closing again is harmless; the error is always nil.
func (v *Verifier) Close() error {
	for _, is := range v.issuers {
		is.keys.stop()
	}
	return nil
}

// Verify returns whom the token, without "Bearer ", proves. The user is shared
// between calls: it must not be changed.
//
// It blocks, until ctx is done at the latest, only while an issuer's keys are
// fetched that were never had, or because the token names a key that is not
// known. Its error wraps exactly one of identity.ErrTokenInvalid,
// identity.ErrTokenExpired and identity.ErrKeysUnavailable, says to the operator
// what is wrong, and quotes nothing of the token but alg, typ, kid, aud and its
// issuer or trust domain, cut short.
//
// A token that was verified is remembered until it ends, by its SHA-256, and no
// longer than the keys are what they were.
func (v *Verifier) Verify(ctx context.Context, raw string) (*identity.User, error) {
	if len(raw) > maxToken {
		return nil, invalid("it has %d bytes, more than %d", len(raw), maxToken)
	}
	now := v.now()
	digest := sha256.Sum256([]byte(raw))
	user := v.cache.get(digest)
	if user == nil {
		var valid holds
		var err error
		if user, valid, err = v.verify(ctx, raw, now); err != nil {
			return nil, err
		}
		if !user.Expired(now) {
			v.cache.put(digest, user, valid, now)
		}
	}
	if user.Expired(now) {
		return nil, expired(user.NotAfter, now)
	}
	return user, nil
}

func (v *Verifier) verify(ctx context.Context, raw string, now time.Time) (*identity.User, holds, error) {
	t, err := parse(raw, v.algs)
	if err != nil {
		return nil, nil, err
	}
	// Nothing is verified yet: iss and sub only choose who verifies, and each issuer
	// verifies with its own keys.
	iss, _ := t.claims["iss"].(string)
	if is := v.issuers[iss]; is != nil {
		return is.verify(ctx, t, now)
	}
	if sub, _ := t.claims["sub"].(string); v.svids != nil && strings.HasPrefix(sub, "spiffe://") {
		return v.svids.verify(t, now)
	}
	return nil, nil, invalid("its issuer %s is not one of ours", clip(iss))
}

var errClosed = errors.New("the verifier is closed")
