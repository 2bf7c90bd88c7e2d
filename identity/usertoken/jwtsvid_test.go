package usertoken_test

import (
	"crypto"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
)

func domains(names ...string) []spiffeid.TrustDomain {
	var tds []spiffeid.TrustDomain
	for _, n := range names {
		tds = append(tds, spiffeid.RequireTrustDomainFromString(n))
	}
	return tds
}

func TestJWTSVIDs(t *testing.T) {
	own, other := identitytest.NewJWTAuthority(t, "own.test"), identitytest.NewJWTAuthority(t, "other.test")
	unlisted, lost := identitytest.NewJWTAuthority(t, "unlisted.test"), identitytest.NewJWTAuthority(t, "lost.test")
	ed := identitytest.NewTokenKey(t, "ed", jose.EdDSA)
	bundle := own.Bundle()
	if err := bundle.AddJWTAuthority("ed", ed.Public()); err != nil {
		t.Fatal(err)
	}
	short := shortRSA(t)
	if err := bundle.AddJWTAuthority("short", short.Public()); err != nil {
		t.Fatal(err)
	}
	// What an OIDC issuer may sign with does not matter to JWT-SVIDs.
	mixed := usertoken.OIDC{Issuer: issuerOfFile, Audiences: []string{audience}, JWKSFile: t.TempDir(), Algorithms: []string{"EdDSA"}}
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{mixed}, JWTSVID: &usertoken.JWTSVID{
		TrustDomains: domains("own.test", "other.test", "lost.test"),
		Audiences:    []string{"another.test", audience},
		Bundles:      jwtbundle.NewSet(bundle, other.Bundle(), unlisted.Bundle()),
	}})
	good := own.Claims("/clinic/triage", audience)
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }

	for name, claims := range map[string]identitytest.Claims{
		"good":               good,
		"without iat":        good.Without("iat"),
		"with an iss":        good.With("iss", "https://spire.test"),
		"of a listed domain": other.Claims("/x", audience),
	} {
		t.Run(name, func(t *testing.T) {
			authority := own
			if name == "of a listed domain" {
				authority = other
			}
			token := authority.JWTSVID(t, claims)
			sub := claims["sub"].(string)
			want := &identity.User{
				Issuer: spiffeid.RequireFromString(sub).TrustDomain().IDString(), Subject: sub,
				NotAfter: time.Unix(claims["exp"].(int64), 0),
			}
			for range 2 {
				if diff := cmp.Diff(want, accept(t, v, token)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}

	forger := identitytest.NewJWTAuthority(t, "own.test")
	stale := func(ago time.Duration) identitytest.Claims {
		return good.With("iat", in(-ago-time.Minute)).With("exp", in(-ago))
	}
	for name, test := range map[string]struct {
		token string
		want  error
	}{
		"domain not listed":          {unlisted.JWTSVID(t, unlisted.Claims("/x", audience)), identity.ErrTokenInvalid},
		"domain without bundle":      {lost.JWTSVID(t, lost.Claims("/x", audience)), identity.ErrKeysUnavailable},
		"key of another domain":      {other.JWTSVID(t, good), identity.ErrTokenInvalid},
		"key of one's own":           {forger.JWTSVID(t, good), identity.ErrTokenInvalid},
		"wrong audience":             {own.JWTSVID(t, good.With("aud", "other.test")), identity.ErrTokenInvalid},
		"audience missing":           {own.JWTSVID(t, good.Without("aud")), identity.ErrTokenInvalid},
		"exp missing":                {own.JWTSVID(t, good.Without("exp")), identity.ErrTokenInvalid},
		"expired":                    {own.JWTSVID(t, stale(time.Hour)), identity.ErrTokenExpired},
		"expired a moment ago":       {own.JWTSVID(t, stale(2*time.Second)), identity.ErrTokenExpired},
		"expired, and a forgery":     {forger.JWTSVID(t, stale(time.Hour)), identity.ErrTokenInvalid},
		"issued in the future":       {own.JWTSVID(t, good.With("iat", in(45*time.Second))), identity.ErrTokenInvalid},
		"not valid before":           {own.JWTSVID(t, good.With("nbf", in(45*time.Second))), identity.ErrTokenInvalid},
		"too long-lived":             {own.JWTSVID(t, good.With("exp", in(16*time.Minute))), identity.ErrTokenInvalid},
		"too long-lived, no iat":     {own.JWTSVID(t, good.Without("iat").With("exp", in(16*time.Minute))), identity.ErrTokenInvalid},
		"names a trust domain":       {own.JWTSVID(t, good.With("sub", "spiffe://own.test")), identity.ErrTokenInvalid},
		"not a SPIFFE ID":            {own.JWTSVID(t, good.With("sub", "spiffe://own.test/a/../b")), identity.ErrTokenInvalid},
		"subject of another kind":    {own.JWTSVID(t, good.With("sub", "alice")), identity.ErrTokenInvalid},
		"subject too long":           {own.JWTSVID(t, good.With("sub", "spiffe://own.test/"+string(make2k()))), identity.ErrTokenInvalid},
		"kid missing":                {own.TokenHeader(t, own.Header().With("typ", "JWT").Without("kid"), good), identity.ErrTokenInvalid},
		"kid unknown":                {own.TokenHeader(t, own.Header().With("typ", "JWT").With("kid", "jwt-2"), good), identity.ErrTokenInvalid},
		"typ of an access token":     {own.TokenHeader(t, own.Header().With("typ", "at+jwt"), good), identity.ErrTokenInvalid},
		"EdDSA, not of the standard": {ed.TokenHeader(t, ed.Header().With("typ", "JWT"), good), identity.ErrTokenInvalid},
		"RSA of 1024 bits":           {short.TokenHeader(t, identitytest.Claims{"alg": "RS256", "kid": "short"}, good), identity.ErrTokenInvalid},
		"alg none":                   {own.TokenHeader(t, own.Header().With("typ", "JWT").With("alg", "none"), good), identity.ErrTokenInvalid},
		"claims twice":               {own.Sign(t, `{"alg":"ES256","kid":"jwt-1","typ":"JWT"}`, `{"aud":"sallyport.test","sub":"spiffe://own.test/a","sub":"spiffe://own.test/b","exp":9999999999}`), identity.ErrTokenInvalid},
	} {
		t.Run(name, func(t *testing.T) { refuse(t, v, test.token, test.want) })
	}
	_, err := v.Verify(t.Context(), own.JWTSVID(t, good.With("aud", "other.test")))
	if err == nil || !strings.Contains(err.Error(), `meant for "other.test"`) {
		t.Error(err)
	}
}

func make2k() []byte {
	b := make([]byte, 2048)
	for i := range b {
		b[i] = 'a'
	}
	return b
}

// A JWT-SVID and an access token are told apart by who verifies them.
func TestIssuerIsNoTrustDomain(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	authority := identitytest.NewJWTAuthority(t, "own.test")
	v := open(t, usertoken.Config{
		OIDC:    []usertoken.OIDC{oidc(issuer)},
		JWTSVID: &usertoken.JWTSVID{TrustDomains: domains("own.test"), Audiences: []string{audience}, Bundles: authority.Bundle()},
	})
	claims := issuer.Claims(audience).With("sub", "spiffe://own.test/admin")
	if user := accept(t, v, issuer.Token(t, claims)); user.Issuer != issuer.URL() {
		t.Errorf("issuer %q", user.Issuer)
	}
	refuse(t, v, issuer.Token(t, claims.Without("iss")), identity.ErrTokenInvalid)
	refuse(t, v, authority.JWTSVID(t, claims), identity.ErrTokenInvalid)
	onlyOIDC := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	refuse(t, onlyOIDC, authority.JWTSVID(t, authority.Claims("/x", audience)), identity.ErrTokenInvalid)
}

func TestJWTAuthorityLeaves(t *testing.T) {
	authority := identitytest.NewJWTAuthority(t, "own.test")
	for name, test := range map[string]struct {
		change func(*jwtbundle.Set, *jwtbundle.Bundle)
		want   error
	}{
		"key withdrawn": {func(_ *jwtbundle.Set, b *jwtbundle.Bundle) { b.RemoveJWTAuthority("jwt-1") }, identity.ErrTokenInvalid},
		"key replaced under its name": {func(_ *jwtbundle.Set, b *jwtbundle.Bundle) {
			b.SetJWTAuthorities(map[string]crypto.PublicKey{"jwt-1": identitytest.NewTokenKey(t, "", jose.ES256).Public()})
		}, identity.ErrTokenInvalid},
		"bundle gone": {func(s *jwtbundle.Set, b *jwtbundle.Bundle) { s.Remove(b.TrustDomain()) }, identity.ErrKeysUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := authority.Bundle()
			set := jwtbundle.NewSet(bundle)
			v := open(t, usertoken.Config{JWTSVID: &usertoken.JWTSVID{
				TrustDomains: domains("own.test"), Audiences: []string{audience}, Bundles: set,
			}})
			token := authority.JWTSVID(t, authority.Claims("/x", audience))
			accept(t, v, token)
			test.change(set, bundle)
			refuse(t, v, token, test.want)
		})
	}
}
