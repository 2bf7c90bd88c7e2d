package usertoken_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
)

// quick is the configuration of an issuer whose keys are fetched all the time.
func quick(i *identitytest.Issuer) usertoken.OIDC {
	cfg := oidc(i)
	cfg.RefreshInterval, cfg.MaxKeyAge = 30*time.Millisecond, time.Second
	return cfg
}

func TestKeyRotation(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{quick(issuer)}})
	before := issuer.Token(t, issuer.Claims(audience))
	accept(t, v, before) // and so remembered
	next := identitytest.NewTokenKey(t, "ec-3", jose.ES256)
	issuer.Publish(issuer.Key("ec-1"), next)
	after := next.Token(t, issuer.Claims(audience))
	accept(t, v, after)
	accept(t, v, before)
	issuer.Withdraw("ec-1")
	eventually(t, v, before, identity.ErrTokenInvalid)
	refuse(t, v, before, identity.ErrTokenInvalid)
	accept(t, v, after)
	// The same name, another key.
	issuer.Publish(identitytest.NewTokenKey(t, "ec-3", jose.ES256))
	eventually(t, v, after, identity.ErrTokenInvalid)
	// Everything withdrawn.
	last := issuer.Key("ec-3").Token(t, issuer.Claims(audience))
	accept(t, v, last)
	issuer.Publish()
	eventually(t, v, last, identity.ErrTokenInvalid)
}

func TestNewKeyIsFetchedAtOnceForAll(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	var ahead atomic.Int64
	v := open(t, usertoken.Config{
		OIDC: []usertoken.OIDC{oidc(issuer)},
		Now:  func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	accept(t, v, issuer.Token(t, issuer.Claims(audience)))
	next := identitytest.NewTokenKey(t, "ec-3", jose.ES256)
	issuer.Publish(next)
	all(20, func(i int) {
		if _, err := v.Verify(t.Context(), next.Token(t, issuer.Claims(audience).With("jti", i))); err != nil {
			t.Error(err)
		}
	})
	if n := issuer.Fetches(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	// A flood of unknown keys makes no more of them, until some seconds have passed.
	flood := func() {
		all(200, func(i int) {
			key := identitytest.TokenKey{ID: fmt.Sprint("flood-", i), Algorithm: jose.ES256, Private: next.Private}
			if _, err := v.Verify(t.Context(), key.Token(t, issuer.Claims(audience))); !errors.Is(err, identity.ErrTokenInvalid) {
				t.Error(err)
			}
		})
	}
	flood()
	if n := issuer.Fetches(); n != 2 {
		t.Errorf("%d fetches after a flood, want 2", n)
	}
	ahead.Store(int64(5 * time.Second))
	flood()
	if n := issuer.Fetches(); n != 3 {
		t.Errorf("%d fetches after a flood later, want 3", n)
	}
}

func all(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func TestUnknownKeyWhileIssuerIsDown(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	accept(t, v, issuer.Token(t, issuer.Claims(audience)))
	issuer.Answer(http.NotFoundHandler())
	next := identitytest.NewTokenKey(t, "ec-3", jose.ES256)
	refuse(t, v, next.Token(t, issuer.Claims(audience)), identity.ErrKeysUnavailable)
	accept(t, v, issuer.Token(t, issuer.Claims(audience).With("jti", "2")))
}

func TestSlowIssuer(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	issuer.Answer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	token := issuer.Token(t, issuer.Claims(audience))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := v.Verify(ctx, token)
	if !errors.Is(err, identity.ErrKeysUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	_ = v.Close()                                        // while the fetch hangs
	if took := time.Since(began); took > 8*time.Second { // a fetch may take 10 s
		t.Errorf("took %v", took)
	}
	refuse(t, v, token, identity.ErrKeysUnavailable)
}

func TestUnknownWebServer(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	cfg := oidc(issuer)
	cfg.CAFile = "" // the system's do not know it
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{cfg}})
	refuse(t, v, issuer.Token(t, issuer.Claims(audience)), identity.ErrKeysUnavailable)
	if n := issuer.Fetches(); n != 0 {
		t.Errorf("%d fetches", n)
	}
}

// localhost may stand for anything; http goes to this machine all the same.
func TestHTTPStaysHere(t *testing.T) {
	client, err := usertoken.NewClient("")
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"http://192.0.2.1/keys", "http://[2001:db8::1]/keys"} {
		resp, err := client.Get(url)
		if err == nil {
			_ = resp.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "is not a loopback address") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestWhereKeysAre(t *testing.T) {
	plain, secure := identitytest.NewPlainIssuer(t), identitytest.NewIssuer(t)
	byURL := oidc(secure)
	byURL.JWKSURL = secure.URL() + "/keys"
	secure.Answer(from(secure, func() any { return nil }, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(secure.JWKS()) }))
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{oidc(plain), byURL}})
	accept(t, v, plain.Token(t, plain.Claims(audience)))
	accept(t, v, secure.Token(t, secure.Claims(audience)))
}

// file writes keys to a file, as a whole.
func file(t *testing.T, path string, doc any) {
	t.Helper()
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func set(keys ...any) map[string]any { return map[string]any{"keys": keys} }

const issuerOfFile = "https://issuer.test"

func claimsOfFile() identitytest.Claims {
	now := time.Now()
	return identitytest.Claims{
		"iss": issuerOfFile, "sub": "alice", "aud": audience, "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
}

func TestKeysFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	first, second := identitytest.NewTokenKey(t, "1", jose.ES256), identitytest.NewTokenKey(t, "2", jose.ES256)
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		v, err := usertoken.New(t.Context(), usertoken.Config{
			OIDC: []usertoken.OIDC{{Issuer: issuerOfFile, Audiences: []string{audience}, JWKSFile: path, MaxKeyAge: 6 * time.Minute}},
			Log:  slog.New(slog.NewTextHandler(&logged, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close() //nolint:errcheck // always nil
		token := first.Token(t, claimsOfFile())
		refuse(t, v, token, identity.ErrKeysUnavailable) // no file yet
		file(t, path, set(first.JWK()))
		time.Sleep(2*time.Second + time.Millisecond)
		accept(t, v, token)
		file(t, path, set(second.JWK()))
		time.Sleep(2*time.Second + time.Millisecond)
		refuse(t, v, token, identity.ErrTokenInvalid)
		token = second.Token(t, claimsOfFile())
		accept(t, v, token)

		// Away: what is known is good until it is too old.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Minute + 50*time.Second)
		accept(t, v, token)
		time.Sleep(15 * time.Second)
		refuse(t, v, token, identity.ErrKeysUnavailable)
		v.Forget()
		refuse(t, v, token, identity.ErrKeysUnavailable)
		file(t, path, set(second.JWK()))
		time.Sleep(2*time.Second + time.Millisecond)
		accept(t, v, token)
		synctest.Wait()
		for _, line := range []string{
			`level=WARN msg="keys of an issuer of tokens cannot be fetched, trying again" issuer=https://issuer.test`,
			`level=INFO msg="keys of an issuer of tokens received" issuer=https://issuer.test kids=[1] unusable=0`,
			`tokens_refused=false`, `tokens_refused=true`, `kids=[2]`,
		} {
			if !strings.Contains(logged.String(), line) {
				t.Errorf("not logged: %s", line)
			}
		}
		if n := strings.Count(logged.String(), "\n"); n > 8 {
			t.Errorf("%d lines in the log:\n%s", n, &logged)
		}
	})
}

// Opening a pipe would hold up Close for ever.
func TestFileThatIsAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{{Issuer: issuerOfFile, Audiences: []string{audience}, JWKSFile: path}}})
	key := identitytest.NewTokenKey(t, "1", jose.ES256)
	refuse(t, v, key.Token(t, claimsOfFile()), identity.ErrKeysUnavailable)
}

func TestKeysThatMayNotVerify(t *testing.T) {
	ec := identitytest.NewTokenKey(t, "k", jose.ES256)
	rsaKey := identitytest.NewTokenKey(t, "k", jose.RS256)
	p384 := identitytest.NewTokenKey(t, "k", jose.ES384)
	asMap := func(key jose.JSONWebKey, change func(map[string]any)) map[string]any {
		b, err := key.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		return m
	}
	short := shortRSA(t)
	private := ec.JWK()
	private.Key = ec.Private
	for name, test := range map[string]struct {
		keys   []any
		token  string
		accept bool
	}{
		"plain":               {[]any{ec.JWK()}, ec.Token(t, claimsOfFile()), true},
		"use and alg missing": {[]any{asMap(ec.JWK(), func(m map[string]any) { delete(m, "use"); delete(m, "alg") })}, ec.Token(t, claimsOfFile()), true},
		"key_ops verify":      {[]any{asMap(ec.JWK(), func(m map[string]any) { m["key_ops"] = []string{"verify"} })}, ec.Token(t, claimsOfFile()), true},
		"beside keys of unknown kinds": {[]any{
			map[string]any{"kty": "new"}, map[string]any{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}, "no key", ec.JWK(),
		}, ec.Token(t, claimsOfFile()), true},
		"kid missing, beside a P-384 key": {[]any{ec.JWK(), asMap(p384.JWK(), func(m map[string]any) { delete(m, "alg") })}, ec.TokenHeader(t, ec.Header().Without("kid"), claimsOfFile()), true},
		"kid of two kinds":                {[]any{ec.JWK(), rsaKey.JWK()}, ec.Token(t, claimsOfFile()), true},
		"kid twice":                       {[]any{ec.JWK(), identitytest.NewTokenKey(t, "k", jose.ES256).JWK()}, ec.Token(t, claimsOfFile()), false},
		"use enc":                         {[]any{asMap(ec.JWK(), func(m map[string]any) { m["use"] = "enc" })}, ec.Token(t, claimsOfFile()), false},
		"key_ops sign":                    {[]any{asMap(ec.JWK(), func(m map[string]any) { m["key_ops"] = []string{"sign"} })}, ec.Token(t, claimsOfFile()), false},
		"key_ops none":                    {[]any{asMap(ec.JWK(), func(m map[string]any) { m["key_ops"] = []string{} })}, ec.Token(t, claimsOfFile()), false},
		"alg of another":                  {[]any{asMap(rsaKey.JWK(), func(m map[string]any) { m["alg"] = "RSA-OAEP" })}, rsaKey.Token(t, claimsOfFile()), false},
		"RSA of 1024 bits":                {[]any{short.JWK()}, short.Token(t, claimsOfFile()), false},
		"private":                         {[]any{private}, ec.Token(t, claimsOfFile()), false},
		"member twice":                    {[]any{json.RawMessage(`{"kid":"x",` + string(mustJSON(t, ec.JWK()))[1:])}, ec.Token(t, claimsOfFile()), false},
		"kid missing in the set":          {[]any{asMap(ec.JWK(), func(m map[string]any) { delete(m, "kid") })}, ec.Token(t, claimsOfFile()), false},
		"symmetric": {[]any{map[string]any{"kty": "oct", "kid": "k", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}},
			(&identitytest.TokenKey{ID: "k", Algorithm: jose.HS256, Private: []byte("secretsecretsecretsecretsecret")}).Token(t, claimsOfFile()), false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.json")
			file(t, path, set(test.keys...))
			v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{{Issuer: issuerOfFile, Audiences: []string{audience}, JWKSFile: path}}})
			if test.accept {
				accept(t, v, test.token)
			} else {
				refuse(t, v, test.token, identity.ErrTokenInvalid)
			}
		})
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
