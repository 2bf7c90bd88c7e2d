package usertoken_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
)

func TestGoodTokens(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	ec, rsa := issuer.Key("ec-1"), issuer.Key("rsa-1")
	claims := issuer.Claims(audience)
	user := identity.User{Issuer: issuer.URL(), Subject: "alice", NotAfter: time.Unix(claims["exp"].(int64), 0)}
	with := func(f func(*identity.User)) identity.User {
		u := user
		f(&u)
		return u
	}
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for name, test := range map[string]struct {
		token string
		want  identity.User
	}{
		"ES256":                             {ec.Token(t, claims), user},
		"RS256":                             {rsa.Token(t, claims), user},
		"kid missing, only key of its kind": {rsa.TokenHeader(t, rsa.Header().Without("kid"), claims), user},
		"typ application/at+jwt":            {ec.TokenHeader(t, ec.Header().With("typ", "application/AT+JWT"), claims), user},
		"typ JWT":                           {ec.TokenHeader(t, ec.Header().With("typ", "JWT"), claims), user},
		"typ missing":                       {ec.TokenHeader(t, ec.Header().Without("typ"), claims), user},
		"typ JWT, says Bearer and access":   {ec.TokenHeader(t, ec.Header().With("typ", "JWT"), claims.With("typ", "Bearer").With("token_use", "access")), user},
		"nonce in what is an access token":  {ec.Token(t, claims.With("nonce", "n")), user},
		"other header":                      {ec.TokenHeader(t, ec.Header().With("x5t", "abc"), claims), user},
		"other claims":                      {ec.Token(t, claims.With("x", map[string]any{"y": []any{1, nil}})), user},
		"several audiences":                 {ec.Token(t, claims.With("aud", []string{"x", audience})), user},
		"iat a bit ahead":                   {ec.Token(t, claims.With("iat", in(20*time.Second))), user},
		"nbf a bit ahead":                   {ec.Token(t, claims.With("nbf", in(20*time.Second))), user},
		"fractions of seconds":              {ec.Token(t, claims.With("iat", float64(in(0))+0.5).With("exp", float64(claims["exp"].(int64))+0.9)), user},
		"groups":                            {ec.Token(t, claims.With("groups", []string{"a", "ä b"})), with(func(u *identity.User) { u.Groups = []string{"a", "ä b"} })},
		"one group":                         {ec.Token(t, claims.With("groups", "a")), with(func(u *identity.User) { u.Groups = []string{"a"} })},
		"scope":                             {ec.Token(t, claims.With("scope", "read  write ")), with(func(u *identity.User) { u.Scopes = []string{"read", "write"} })},
		"scope a list":                      {ec.Token(t, claims.With("scope", []string{"read", "write"})), with(func(u *identity.User) { u.Scopes = []string{"read", "write"} })},
		"scope empty":                       {ec.Token(t, claims.With("scope", "")), with(func(u *identity.User) { u.Scopes = []string{} })},
		"scope an empty list":               {ec.Token(t, claims.With("scope", []string{})), with(func(u *identity.User) { u.Scopes = []string{} })},
		"scp":                               {ec.Token(t, claims.With("scp", []string{"read"})), with(func(u *identity.User) { u.Scopes = []string{"read"} })},
		"amr and acr": {ec.Token(t, claims.With("amr", []string{"pwd", "mfa"}).With("acr", "high")), with(func(u *identity.User) {
			u.AMR, u.ACR = []string{"pwd", "mfa"}, "high"
		})},
	} {
		t.Run(name, func(t *testing.T) {
			for _, kind := range []string{"verified", "remembered"} {
				if diff := cmp.Diff(&test.want, accept(t, v, test.token)); diff != "" {
					t.Errorf("%s: -want +got\n%s", kind, diff)
				}
			}
		})
	}
}

func TestBadTokens(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	// Another issuer allows more algorithms, which must not help this one's tokens.
	other := identitytest.NewIssuer(t)
	more := oidc(other)
	more.Algorithms = []string{"PS256", "RS384", "RS512", "ES384", "EdDSA"}
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer), more}})
	accept(t, v, issuer.Token(t, issuer.Claims(audience)))
	bad := identitytest.BadTokens(t, issuer, audience)
	t.Logf("%d bad tokens", len(bad))
	for _, test := range bad {
		t.Run(test.Name, func(t *testing.T) {
			for range 2 {
				refuse(t, v, test.Token, test.Want)
			}
		})
	}
	accept(t, v, issuer.Token(t, issuer.Claims(audience)))
}

// The operator reads what is wrong, and that it was found where it should be.
func TestErrorsSayWhatIsWrong(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	said := map[string]string{
		`alg "none", no signature`:               "three parts",
		`alg "none", a signature`:                `its algorithm "none" is not accepted`,
		"four parts":                             "three parts",
		"five parts, as encrypted":               "three parts",
		"JSON serialization, flattened":          "three parts",
		"oversized":                              "more than 8192",
		"kid unknown":                            `has no key for ES256 with kid "ec-9"`,
		"kid missing, with several keys":         "has several keys for ES256",
		"kid too long":                           "kid is not a printable string of 1 to 256 bytes",
		"key of one's own under a published kid": `its signature is not of key "ec-1"`,
		"header with alg twice":                  "its header: not a JSON object, or one with duplicate names",
		"claims null":                            "its claims: not a JSON object",
		"claim twice":                            "its claims: not a JSON object, or one with duplicate names",
		"signature cut short":                    "signature",
		"base64 that is not canonical":           "its signature: not canonical base64url",
		"audience of another":                    `it is meant for "https://other.test", not for us`,
		"issuer unknown":                         `its issuer "https://issuer.test" is not one of ours`,
		"iat from the future":                    "it is from the future, by ",
		"too long-lived":                         "it lives 15m1s, longer than 15m0s: exp, iat",
		"stale":                                  "s ago",
		"aud missing":                            "it has no aud",
		"exp missing":                            "it has no exp",
		"iat missing":                            "it has no iat",
		"sub missing":                            "it has no sub",
		"exp before iat":                         "it ends before it begins",
		"sub empty":                              "sub is not a printable string",
		"groups with a number":                   "groups has what is not",
	}
	for _, bad := range identitytest.BadTokens(t, issuer, audience) {
		if want, ok := said[bad.Name]; ok {
			delete(said, bad.Name)
			if _, err := v.Verify(t.Context(), bad.Token); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q lacks %q", bad.Name, err, want)
			}
		}
	}
	if len(said) > 0 {
		t.Errorf("no bad tokens of these names: %v", said)
	}
}

// The algorithm is looked at before the claims are.
func TestAlgorithmComesFirst(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	token := issuer.Key("ec-1").Sign(t, `{"alg":"HS256","crit":["x"]}`, "no claims")
	if _, err := v.Verify(t.Context(), token); err == nil || !strings.Contains(err.Error(), "its algorithm") {
		t.Error(err)
	}
}

// A key that says of no algorithm that it is for that one serves those of its
// issuer's list, not of another's.
func TestAlgorithmsAreTheIssuersOwn(t *testing.T) {
	a, b := identitytest.NewIssuer(t), identitytest.NewIssuer(t)
	key := identitytest.NewTokenKey(t, "k", jose.RS256)
	path := filepath.Join(t.TempDir(), "keys.json")
	file(t, path, set(jose.JSONWebKey{Key: key.Public(), KeyID: "k"}))
	of := func(i *identitytest.Issuer, alg string) usertoken.OIDC {
		return usertoken.OIDC{Issuer: i.URL(), Audiences: []string{audience}, JWKSFile: path, Algorithms: []string{alg}}
	}
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{of(a, "RS256"), of(b, "PS256")}})
	pss := &identitytest.TokenKey{ID: "k", Algorithm: jose.PS256, Private: key.Private}
	accept(t, v, key.Token(t, a.Claims(audience)))
	accept(t, v, pss.Token(t, b.Claims(audience)))
	refuse(t, v, pss.Token(t, a.Claims(audience)), identity.ErrTokenInvalid)
	refuse(t, v, key.Token(t, b.Claims(audience)), identity.ErrTokenInvalid)
}

func TestNoIssuerSpeaksForAnother(t *testing.T) {
	a, b := identitytest.NewIssuer(t), identitytest.NewIssuer(t)
	strict := oidc(b)
	strict.Algorithms, strict.Audiences = []string{"ES256"}, []string{"b.test"}
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(a), strict}})
	accept(t, v, a.Token(t, a.Claims(audience)))
	accept(t, v, b.Token(t, b.Claims("b.test")))
	for name, token := range map[string]string{
		"a's key, b's name":        a.Token(t, b.Claims("b.test")),
		"b's key, a's name":        b.Token(t, a.Claims(audience)),
		"b's token, a's audience":  b.Token(t, b.Claims(audience)),
		"b's token, a's algorithm": b.Key("rsa-1").Token(t, b.Claims("b.test")),
	} {
		t.Run(name, func(t *testing.T) { refuse(t, v, token, identity.ErrTokenInvalid) })
	}
}

func TestAlgorithms(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	cfg := oidc(issuer)
	var keys []*identitytest.TokenKey
	for _, alg := range []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	} {
		cfg.Algorithms = append(cfg.Algorithms, string(alg))
		keys = append(keys, identitytest.NewTokenKey(t, string(alg), alg))
	}
	issuer.Publish(keys...)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{cfg}})
	for _, key := range keys {
		t.Run(key.ID, func(t *testing.T) {
			accept(t, v, key.Token(t, issuer.Claims(audience)))
			// The key says which algorithm it is for: no other of its kind will do.
			for _, other := range keys {
				if other.ID != key.ID {
					refuse(t, v, key.TokenHeader(t, key.Header().With("alg", other.ID), issuer.Claims(audience)), identity.ErrTokenInvalid)
					as := &identitytest.TokenKey{ID: key.ID, Algorithm: other.Algorithm, Private: key.Private}
					if fmt.Sprintf("%T", key.Private) == fmt.Sprintf("%T", other.Private) {
						refuse(t, v, as.Token(t, issuer.Claims(audience)), identity.ErrTokenInvalid)
					}
				}
			}
		})
	}
}

func TestSettings(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	cfg := oidc(issuer)
	cfg.GroupsClaim = "https://sallyport.test/roles"
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{cfg}, MaxLifetime: time.Minute})
	claims := issuer.Claims(audience)
	refuse(t, v, issuer.Token(t, claims), identity.ErrTokenInvalid)
	claims["exp"] = time.Now().Add(50 * time.Second).Unix()
	user := accept(t, v, issuer.Token(t, claims.With("groups", []string{"no"}).With(cfg.GroupsClaim, "yes")))
	if diff := cmp.Diff([]string{"yes"}, user.Groups); diff != "" {
		t.Error(diff)
	}
}

func TestRememberedTokenEnds(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	now := time.Now()
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}, Now: func() time.Time { return now }})
	claims := issuer.Claims(audience)
	token := issuer.Token(t, claims)
	accept(t, v, token)
	end := time.Unix(claims["exp"].(int64), 0)
	now = end.Add(-time.Nanosecond)
	accept(t, v, token)
	now = end
	refuse(t, v, token, identity.ErrTokenExpired)
	v.Forget()
	refuse(t, v, token, identity.ErrTokenExpired)
}

func TestRememberedTokensAreBounded(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	claims := issuer.Claims(audience)
	key := issuer.Key("ec-1")
	for i := range usertoken.MaxCached + 50 {
		accept(t, v, key.Token(t, claims.With("jti", i)))
	}
	if n := v.Cached(); n > usertoken.MaxCached || n < usertoken.MaxCached-50 {
		t.Errorf("%d tokens are remembered", n)
	}
}

func TestRefusedTokensAreNotRemembered(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	for _, bad := range identitytest.BadTokens(t, issuer, audience) {
		refuse(t, v, bad.Token, bad.Want)
	}
	if n := v.Cached(); n != 0 {
		t.Errorf("%d tokens are remembered", n)
	}
}

func TestErrorsAreShortAndPrintable(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	long := strings.Repeat("x\n\x1b[31mé", 150)
	key := issuer.Key("ec-1")
	for name, token := range map[string]string{
		"iss": issuer.Token(t, issuer.Claims(audience).With("iss", long)),
		"aud": issuer.Token(t, issuer.Claims(audience).With("aud", strings.Repeat("é", 1000))),
		"kid": key.TokenHeader(t, key.Header().With("kid", strings.Repeat("é", 120)), issuer.Claims(audience)),
		"typ": key.TokenHeader(t, key.Header().With("typ", strings.Repeat("é", 30)), issuer.Claims(audience)),
	} {
		t.Run(name, func(t *testing.T) {
			refuse(t, v, token, identity.ErrTokenInvalid)
			_, err := v.Verify(t.Context(), token)
			if len(err.Error()) > 600 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r != '…' && (r < ' ' || r > '~') }) {
				t.Errorf("%d bytes: %q", len(err.Error()), err)
			}
		})
	}
}

func TestClosed(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	token := issuer.Token(t, issuer.Claims(audience))
	accept(t, v, token)
	for range 2 {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
	refuse(t, v, token, identity.ErrKeysUnavailable)
	// New's context is not the verifier's life.
	ctx, cancel := context.WithCancel(t.Context())
	v, err := usertoken.New(ctx, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close() //nolint:errcheck // always nil
	cancel()
	accept(t, v, token)
}
