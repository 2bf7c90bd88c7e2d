package usertoken_test

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"

	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
)

// Whatever comes, Verify does not panic, and accepts only what was signed.
func FuzzVerify(f *testing.F) {
	issuer := identitytest.NewIssuer(f)
	authority := identitytest.NewJWTAuthority(f, "own.test")
	v := open(f, usertoken.Config{
		OIDC: []usertoken.OIDC{oidc(issuer)},
		JWTSVID: &usertoken.JWTSVID{
			TrustDomains: domains("own.test"), Audiences: []string{audience}, Bundles: jwtbundle.NewSet(authority.Bundle()),
		},
	})
	signed := map[string]bool{}
	claims := issuer.Claims(audience)
	for _, good := range []string{
		issuer.Token(f, claims), issuer.Key("rsa-1").Token(f, claims),
		authority.JWTSVID(f, authority.Claims("/x", audience)),
	} {
		if _, err := v.Verify(f.Context(), good); err != nil {
			f.Fatal(err)
		}
		signed[signedPart(good)] = true
		f.Add(good)
	}
	for _, bad := range identitytest.BadTokens(f, issuer, audience) {
		f.Add(bad.Token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		user, err := v.Verify(t.Context(), token)
		if err == nil && !signed[signedPart(token)] {
			t.Errorf("accepted %q as %+v", token, user)
		}
		if (err == nil) != (user != nil) {
			t.Errorf("user %v, error %v", user, err)
		}
	})
}

// signedPart is the token without its signature: who has the key may sign the same
// twice, and of an ECDSA signature anyone can make the second form.
func signedPart(token string) string {
	return token[:max(0, strings.LastIndexByte(token, '.'))]
}
