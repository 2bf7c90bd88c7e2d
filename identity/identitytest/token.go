package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Claims are those of a token.
type Claims map[string]any

// With is the claims with one of them set.
func (c Claims) With(name string, value any) Claims {
	c = maps.Clone(c)
	c[name] = value
	return c
}

// Without is the claims without one of them.
func (c Claims) Without(name string) Claims {
	c = maps.Clone(c)
	delete(c, name)
	return c
}

// TokenKey signs tokens.
type TokenKey struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Private   any // crypto.Signer, or []byte for HS256
}

// NewTokenKey makes a key for the algorithm.
func NewTokenKey(tb testing.TB, id string, alg jose.SignatureAlgorithm) *TokenKey {
	tb.Helper()
	k := &TokenKey{ID: id, Algorithm: alg}
	var err error
	switch alg {
	case jose.ES256:
		k.Private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		k.Private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		k.Private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.EdDSA:
		_, k.Private, err = ed25519.GenerateKey(rand.Reader)
	default:
		k.Private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// Public is the key that verifies.
func (k *TokenKey) Public() crypto.PublicKey { return k.Private.(crypto.Signer).Public() }

// JWK is the public key as it is published.
func (k *TokenKey) JWK() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Public(), KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"}
}

// Header is what the key's tokens have for a header.
func (k *TokenKey) Header() Claims {
	return Claims{"alg": k.Algorithm, "kid": k.ID, "typ": "at+jwt"}
}

// Token signs the claims.
func (k *TokenKey) Token(tb testing.TB, claims Claims) string {
	tb.Helper()
	return k.TokenHeader(tb, k.Header(), claims)
}

// TokenHeader signs the claims under a header of the test's.
func (k *TokenKey) TokenHeader(tb testing.TB, header, claims Claims) string {
	tb.Helper()
	return k.Sign(tb, toJSON(tb, header), toJSON(tb, claims))
}

// Sign signs header and claims as they are, by the key's algorithm whatever the
// header says.
func (k *TokenKey) Sign(tb testing.TB, header, claims string) string {
	tb.Helper()
	input := encode([]byte(header)) + "." + encode([]byte(claims))
	return input + "." + encode(k.signature(tb, []byte(input)))
}

func (k *TokenKey) signature(tb testing.TB, input []byte) []byte {
	tb.Helper()
	hash := crypto.SHA256
	switch k.Algorithm {
	case jose.RS384, jose.PS384, jose.ES384:
		hash = crypto.SHA384
	case jose.RS512, jose.PS512, jose.ES512:
		hash = crypto.SHA512
	default:
	}
	h := hash.New()
	h.Write(input)
	digest := h.Sum(nil)
	var sig []byte
	var err error
	switch key := k.Private.(type) {
	case []byte:
		mac := hmac.New(hash.New, key)
		mac.Write(input)
		sig = mac.Sum(nil)
	case ed25519.PrivateKey:
		sig = ed25519.Sign(key, input)
	case *ecdsa.PrivateKey:
		size := (key.Params().BitSize + 7) / 8
		r, s, signErr := ecdsa.Sign(rand.Reader, key, digest)
		if err = signErr; err == nil {
			sig = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
		}
	case *rsa.PrivateKey:
		if k.Algorithm[0] == 'P' {
			sig, err = rsa.SignPSS(rand.Reader, key, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(rand.Reader, key, hash, digest)
		}
	default:
		tb.Fatalf("no signature by a %T", key)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return sig
}

// Issuer is an OIDC issuer on loopback, with discovery and keys that the test
// rotates. It has three keys at first: "ec-1", "ec-2" (ES256) and "rsa-1" (RS256).
type Issuer struct {
	server *httptest.Server
	caFile string

	mu      sync.Mutex // guards what follows
	keys    []*TokenKey
	handler http.Handler // in the place of the issuer's own; nil for those
	fetches int
}

// NewIssuer starts an issuer on https with a CA of its own. It ends with the test.
func NewIssuer(tb testing.TB) *Issuer {
	tb.Helper()
	i := newIssuer(tb)
	i.server.StartTLS()
	i.caFile = filepath.Join(tb.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw}
	if err := os.WriteFile(i.caFile, pem.EncodeToMemory(block), 0o600); err != nil {
		tb.Fatal(err)
	}
	return i
}

// NewPlainIssuer starts an issuer on http.
func NewPlainIssuer(tb testing.TB) *Issuer {
	tb.Helper()
	i := newIssuer(tb)
	i.server.Start()
	return i
}

func newIssuer(tb testing.TB) *Issuer {
	tb.Helper()
	i := &Issuer{keys: []*TokenKey{
		NewTokenKey(tb, "ec-1", jose.ES256), NewTokenKey(tb, "ec-2", jose.ES256), NewTokenKey(tb, "rsa-1", jose.RS256),
	}}
	i.server = httptest.NewUnstartedServer(http.HandlerFunc(i.serve))
	i.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that refuse its certificate
	tb.Cleanup(i.server.Close)
	return i
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	handler := i.handler
	if r.URL.Path == "/keys" {
		i.fetches++
	}
	i.mu.Unlock()
	if handler != nil {
		handler.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL(), "jwks_uri": i.URL() + "/keys"})
	case "/keys":
		_, _ = w.Write(i.JWKS())
	default:
		http.NotFound(w, r)
	}
}

// URL is the issuer's name, the iss claim.
func (i *Issuer) URL() string { return i.server.URL }

// CAFile is a PEM file with the CA of the issuer's web server; empty on http.
func (i *Issuer) CAFile() string { return i.caFile }

// JWKS is the document with the keys.
func (i *Issuer) JWKS() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range i.keys {
		set.Keys = append(set.Keys, k.JWK())
	}
	doc, err := json.Marshal(set)
	if err != nil {
		panic(err) // a key that this package made
	}
	return doc
}

// Key is a published key; nil if there is none of that name.
func (i *Issuer) Key(id string) *TokenKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range i.keys {
		if k.ID == id {
			return k
		}
	}
	return nil
}

// Publish sets the keys.
func (i *Issuer) Publish(keys ...*TokenKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = slices.Clone(keys)
}

// Withdraw takes a key away.
func (i *Issuer) Withdraw(id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = slices.DeleteFunc(slices.Clone(i.keys), func(k *TokenKey) bool { return k.ID == id })
}

// Answer has the handler answer everything in the issuer's place; nil ends that.
func (i *Issuer) Answer(handler http.Handler) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handler = handler
}

// Fetches is how often keys were asked for.
func (i *Issuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// Claims are those of a good access token that lives from now for 5 minutes.
func (i *Issuer) Claims(audience string) Claims {
	now := time.Now()
	return Claims{
		"iss": i.URL(), "sub": "alice", "aud": audience,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
}

// Token is an access token with the claims, signed by ec-1.
func (i *Issuer) Token(tb testing.TB, claims Claims) string {
	tb.Helper()
	return i.Key("ec-1").Token(tb, claims)
}

// JWTAuthority issues the JWT-SVIDs of one trust domain, by ES256.
type JWTAuthority struct {
	*TokenKey
	td spiffeid.TrustDomain
}

// NewJWTAuthority makes one for a trust domain such as "sallyport.test".
func NewJWTAuthority(tb testing.TB, trustDomain string) *JWTAuthority {
	tb.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		tb.Fatal(err)
	}
	return &JWTAuthority{TokenKey: NewTokenKey(tb, "jwt-1", jose.ES256), td: td}
}

// Bundle is what verifies the authority's JWT-SVIDs.
func (a *JWTAuthority) Bundle() *jwtbundle.Bundle {
	return jwtbundle.FromJWTAuthorities(a.td, map[string]crypto.PublicKey{a.ID: a.Public()})
}

// Claims are those of a good JWT-SVID that ends in 5 minutes.
func (a *JWTAuthority) Claims(path, audience string) Claims {
	now := time.Now()
	return Claims{
		"sub": a.td.IDString() + path, "aud": []string{audience},
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
}

// JWTSVID signs the claims as a JWT-SVID.
func (a *JWTAuthority) JWTSVID(tb testing.TB, claims Claims) string {
	tb.Helper()
	return a.TokenHeader(tb, a.Header().With("typ", "JWT"), claims)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func toJSON(tb testing.TB, v any) string {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}
