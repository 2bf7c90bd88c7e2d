package identitytest

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/identity"
)

// BadToken is a token that must be refused.
type BadToken struct {
	Name  string
	Token string
	Want  error // what the refusal wraps
}

// BadTokens are tokens that differ in one thing from a good one of the issuer for
// the audience. Who verifies them accepts the issuer's ES256 and RS256 keys, for
// that audience, and a life of 15 minutes.
func BadTokens(tb testing.TB, i *Issuer, audience string) []BadToken {
	tb.Helper()
	b := &badTokens{tb: tb, issuer: i, ec: i.Key("ec-1"), rsa: i.Key("rsa-1"), good: i.Claims(audience)}
	b.algorithms()
	b.keys()
	b.headers()
	b.forms()
	b.signatures()
	b.times()
	b.names(audience)
	b.users()
	b.kinds()
	return b.all
}

type badTokens struct {
	tb      testing.TB
	issuer  *Issuer
	ec, rsa *TokenKey
	good    Claims
	all     []BadToken
}

func (b *badTokens) add(name, token string) {
	b.all = append(b.all, BadToken{name, token, identity.ErrTokenInvalid})
}

func (b *badTokens) header(name string, header Claims) {
	b.add(name, b.ec.TokenHeader(b.tb, header, b.good))
}

func (b *badTokens) claims(name string, claims Claims) { b.add(name, b.ec.Token(b.tb, claims)) }

func (b *badTokens) algorithms() {
	claims := encode([]byte(toJSON(b.tb, b.good)))
	for _, none := range []string{"none", "None", "NONE", "nOnE", "", " none", "none\x00"} {
		header := encode([]byte(toJSON(b.tb, b.ec.Header().With("alg", none))))
		b.add(fmt.Sprintf("alg %q, no signature", none), header+"."+claims+".")
		b.add(fmt.Sprintf("alg %q, a signature", none), b.ec.TokenHeader(b.tb, b.ec.Header().With("alg", none), b.good))
	}
	b.header("alg missing", b.ec.Header().Without("alg"))
	b.header("alg null", b.ec.Header().With("alg", nil))
	b.header("alg a list", b.ec.Header().With("alg", []string{"ES256"}))
	b.header("alg in lower case", b.ec.Header().With("alg", "es256"))

	der, err := x509.MarshalPKIXPublicKey(b.rsa.Public())
	if err != nil {
		b.tb.Fatal(err)
	}
	jwk, err := b.rsa.JWK().MarshalJSON()
	if err != nil {
		b.tb.Fatal(err)
	}
	for name, secret := range map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "JWK": jwk,
	} {
		for _, alg := range []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512} {
			hmac := &TokenKey{ID: "rsa-1", Algorithm: alg, Private: secret}
			b.add(fmt.Sprintf("%s with the public key's %s", alg, name), hmac.Token(b.tb, b.good))
		}
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.RS384, jose.RS512, jose.PS256} {
		other := &TokenKey{ID: "rsa-1", Algorithm: alg, Private: b.rsa.Private}
		b.add(string(alg)+", not on the list, of a published key", other.Token(b.tb, b.good))
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.EdDSA, jose.ES384} {
		b.add(string(alg)+", not on the list", NewTokenKey(b.tb, "ec-1", alg).Token(b.tb, b.good))
	}
	p384 := NewTokenKey(b.tb, "ec-1", jose.ES384)
	b.add("alg ES256, signature of a P-384 key", p384.TokenHeader(b.tb, p384.Header().With("alg", "ES256"), b.good))
	b.header("alg RS256, kid of the RSA key, ECDSA signature", b.rsa.Header())
	b.header("kid of an RSA key for ES256", b.ec.Header().With("kid", "rsa-1"))
}

func (b *badTokens) keys() {
	b.header("kid of another published key", b.ec.Header().With("kid", "ec-2"))
	b.header("kid unknown", b.ec.Header().With("kid", "ec-9"))
	b.header("kid missing, with several keys", b.ec.Header().Without("kid"))
	b.header("kid empty", b.ec.Header().With("kid", ""))
	b.header("kid a number", b.ec.Header().With("kid", 1))
	b.header("kid a path", b.ec.Header().With("kid", "../../../dev/null"))
	b.header("kid a URL", b.ec.Header().With("kid", b.issuer.URL()+"/keys"))
	b.header("kid too long", b.ec.Header().With("kid", strings.Repeat("k", 300)))
	own := NewTokenKey(b.tb, "ec-1", jose.ES256)
	b.add("key of one's own under a published kid", own.Token(b.tb, b.good))
	jwk := own.JWK()
	b.add("key of one's own in the header: jwk", own.TokenHeader(b.tb, own.Header().With("jwk", jwk), b.good))
	b.add("key of one's own in the header, without kid: jwk",
		own.TokenHeader(b.tb, own.Header().With("jwk", jwk).Without("kid"), b.good))
	ca := NewCA(b.tb, "sallyport.test")
	svid := ca.SVID(b.tb, "/attacker")
	x5c := &TokenKey{ID: "ec-1", Algorithm: jose.ES256, Private: svid.PrivateKey}
	chain := []string{base64.StdEncoding.EncodeToString(svid.Certificates[0].Raw)}
	b.add("key of one's own in the header: x5c", x5c.TokenHeader(b.tb, x5c.Header().With("x5c", chain), b.good))
	b.add("key of one's own, by a URL: jku", own.TokenHeader(b.tb, own.Header().With("jku", b.issuer.URL()+"/keys"), b.good))
}

func (b *badTokens) headers() {
	// Signed by the issuer, so that nothing but the header's name is wrong.
	b.header("header jwk, genuine", b.ec.Header().With("jwk", b.ec.JWK()))
	b.header("header jku, genuine", b.ec.Header().With("jku", b.issuer.URL()+"/keys"))
	b.header("header x5u", b.ec.Header().With("x5u", b.issuer.URL()+"/cert"))
	b.header("header x5c", b.ec.Header().With("x5c", []string{}))
	b.header("header crit unknown", b.ec.Header().With("crit", []string{"exp"}).With("exp", 1))
	b.header("header crit empty", b.ec.Header().With("crit", []string{}))
	b.header("header crit and b64 true", b.ec.Header().With("crit", []string{"b64"}).With("b64", true))
	b.header("header b64 without crit", b.ec.Header().With("b64", true))
	b.header("header zip", b.ec.Header().With("zip", "DEF"))
	b.header("header enc", b.ec.Header().With("enc", "A256GCM"))
	b.header("header cty: a token in a token", b.ec.Header().With("cty", "JWT"))
	b.header("typ of an ID token", b.ec.Header().With("typ", "id_token+jwt"))
	b.header("typ of a logout token", b.ec.Header().With("typ", "logout+jwt"))
	b.header("typ of a proof", b.ec.Header().With("typ", "dpop+jwt"))
	b.header("typ a number", b.ec.Header().With("typ", 1))
	good := toJSON(b.tb, b.good)
	b.add("header with alg twice", b.ec.Sign(b.tb, `{"alg":"none","alg":"ES256","kid":"ec-1"}`, good))
	b.add("header with kid twice, once escaped", b.ec.Sign(b.tb, `{"alg":"ES256","kid":"ec-2","\u006bid":"ec-1"}`, good))
	b.add("header not an object", b.ec.Sign(b.tb, `["ES256"]`, good))
	b.add("header null", b.ec.Sign(b.tb, `null`, good))
	b.add("header with ALG for alg", b.ec.Sign(b.tb, `{"ALG":"ES256","kid":"ec-1"}`, good))
}

func (b *badTokens) forms() {
	good := b.ec.Token(b.tb, b.good)
	part := strings.Split(good, ".")
	b.add("empty", "")
	b.add("no dot", part[0])
	b.add("one dot", part[0]+"."+part[1])
	b.add("dots only", "..")
	b.add("four parts", good+"."+part[2])
	b.add("five parts, as encrypted", good+"."+part[1]+"."+part[2])
	b.add("a dot at the end", good+".")
	b.add("a space before", " "+good)
	b.add("a space behind", good+" ")
	b.add("a line end behind", good+"\n")
	b.add("a line end within", part[0]+"."+part[1][:10]+"\n"+part[1][10:]+"."+part[2])
	b.add("Bearer before", "Bearer "+good)
	b.add("header cut short", part[0][:len(part[0])-1]+"."+part[1]+"."+part[2])
	b.add("claims cut short", part[0]+"."+part[1][:len(part[1])-3]+"."+part[2])
	b.add("signature cut short", good[:len(good)-4])
	b.add("padded base64", good+"==")
	b.add("base64 that is not canonical", good[:len(good)-1]+string(next(good[len(good)-1])))
	b.add("base64 of the other alphabet", part[0]+"."+part[1]+"."+strings.NewReplacer("-", "+", "_", "/").Replace(mixed(b, part[0]+"."+part[1])))
	flat := map[string]any{"protected": part[0], "payload": part[1], "signature": part[2]}
	b.add("JSON serialization, flattened", toJSON(b.tb, flat))
	b.add("JSON serialization, general", toJSON(b.tb, map[string]any{
		"payload": part[1], "signatures": []any{map[string]any{"protected": part[0], "signature": part[2]}},
	}))
	b.add("oversized", b.ec.Token(b.tb, b.good.With("x", strings.Repeat("x", 8<<10))))
	header := toJSON(b.tb, b.ec.Header())
	claims := toJSON(b.tb, b.good)
	b.add("claims not JSON", b.ec.Sign(b.tb, header, "claims"))
	b.add("claims a list", b.ec.Sign(b.tb, header, "["+claims+"]"))
	b.add("claims null", b.ec.Sign(b.tb, header, "null"))
	b.add("claims with more behind", b.ec.Sign(b.tb, header, claims+claims))
	b.add("claims not UTF-8", b.ec.Sign(b.tb, header, strings.Replace(claims, "alice", "al\xffce", 1)))
	b.add("claim twice", b.ec.Sign(b.tb, header, strings.Replace(claims, "{", `{"sub":"root",`, 1)))
	b.add("claim twice, once escaped", b.ec.Sign(b.tb, header, strings.Replace(claims, "{", `{"s\u0075b":"root",`, 1)))
	b.add("claim twice, further down", b.ec.Sign(b.tb, header, strings.Replace(claims, "{", `{"x":[{"y":1,"y":2}],`, 1)))
}

// next is the digit after c in base64url, which differs in the last bit alone.
func next(c byte) byte {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return digits[strings.IndexByte(digits, c)^1]
}

// mixed is a signature that has a digit in which the alphabets differ.
func mixed(b *badTokens, input string) string {
	for {
		if sig := encode(b.ec.signature(b.tb, []byte(input))); strings.ContainsAny(sig, "-_") {
			return sig
		}
	}
}

func (b *badTokens) signatures() {
	good := strings.Split(b.ec.Token(b.tb, b.good), ".")
	other := strings.Split(b.ec.Token(b.tb, b.good.With("sub", "root")), ".")
	b.add("claims of another token", good[0]+"."+other[1]+"."+good[2])
	b.add("signature of another token", good[0]+"."+good[1]+"."+other[2])
	b.add("header of another token", encode([]byte(toJSON(b.tb, b.ec.Header().With("typ", "JWT"))))+"."+good[1]+"."+good[2])
	b.add("signature of zeros", good[0]+"."+good[1]+"."+encode(make([]byte, 64)))
	raw, err := base64.RawURLEncoding.DecodeString(good[2])
	if err != nil {
		b.tb.Fatal(err)
	}
	der, err := asn1.Marshal([]*big.Int{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
	if err != nil {
		b.tb.Fatal(err)
	}
	b.add("signature in DER", good[0]+"."+good[1]+"."+encode(der))
	b.add("signature with more behind", good[0]+"."+good[1]+"."+encode(append(raw, 0)))
	digest := crypto.SHA256.New()
	digest.Write([]byte(good[0] + "." + good[1]))
	b.add("a digest for a signature", good[0]+"."+good[1]+"."+encode(digest.Sum(nil)))
}

func (b *badTokens) times() {
	now := time.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, ago := range map[string]time.Duration{"stale": time.Hour, "stale since a moment ago": time.Second} {
		claims := b.good.With("iat", at(-ago-5*time.Minute)).With("exp", at(-ago))
		b.all = append(b.all, BadToken{name, b.ec.Token(b.tb, claims), identity.ErrTokenExpired})
	}
	// Not known to be genuine, so not known to have expired.
	own := NewTokenKey(b.tb, "ec-1", jose.ES256)
	b.add("stale, of a key of one's own", own.Token(b.tb, b.good.With("iat", at(-2*time.Hour)).With("exp", at(-time.Hour))))
	b.claims("exp missing", b.good.Without("exp"))
	b.claims("exp null", b.good.With("exp", nil))
	b.claims("exp a string", b.good.With("exp", fmt.Sprint(at(time.Minute))))
	b.claims("exp zero", b.good.With("exp", 0))
	b.claims("exp negative", b.good.With("exp", -1))
	b.claims("exp beyond all time", b.good.With("exp", json.Number("1e308")))
	b.claims("exp that would overflow", b.good.With("exp", json.Number("18446744073709551616")))
	b.claims("exp before iat", b.good.With("iat", at(20*time.Second)).With("exp", at(10*time.Second)))
	b.claims("iat missing", b.good.Without("iat"))
	b.claims("iat a string", b.good.With("iat", fmt.Sprint(at(0))))
	b.claims("iat from the future", b.good.With("iat", at(time.Minute)))
	b.claims("nbf from the future", b.good.With("nbf", at(time.Minute)))
	b.claims("nbf beyond all time", b.good.With("nbf", json.Number("1e308")))
	b.claims("nbf that would overflow", b.good.With("nbf", json.Number("18446744073709551616")))
	b.claims("nbf negative", b.good.With("nbf", -1))
	b.claims("nbf a string", b.good.With("nbf", "0"))
	b.claims("too long-lived", b.good.With("iat", at(0)).With("exp", at(15*time.Minute+time.Second)))
	b.claims("too long-lived, near its end", b.good.With("iat", at(-24*time.Hour)).With("exp", at(time.Minute)))
}

func (b *badTokens) names(audience string) {
	b.claims("audience of another", b.good.With("aud", "https://other.test"))
	b.claims("audience longer than ours", b.good.With("aud", audience+"/x"))
	b.claims("audience shorter than ours", b.good.With("aud", audience[:len(audience)-1]))
	b.claims("audience in upper case", b.good.With("aud", strings.ToUpper(audience)))
	b.claims("aud missing", b.good.Without("aud"))
	b.claims("aud empty", b.good.With("aud", []string{}))
	b.claims("aud null", b.good.With("aud", nil))
	b.claims("aud an object", b.good.With("aud", map[string]any{audience: true}))
	b.claims("aud with a number", b.good.With("aud", []any{audience, 1}))
	b.claims("aud of too many", b.good.With("aud", append(make65(), audience)))
	b.claims("issuer unknown", b.good.With("iss", "https://issuer.test"))
	b.claims("issuer with a slash more", b.good.With("iss", b.issuer.URL()+"/"))
	b.claims("issuer in upper case", b.good.With("iss", strings.ToUpper(b.issuer.URL())))
	b.claims("iss missing", b.good.Without("iss"))
	b.claims("iss a list", b.good.With("iss", []string{b.issuer.URL()}))
	b.claims("sub missing", b.good.Without("sub"))
	b.claims("sub empty", b.good.With("sub", ""))
	b.claims("sub a number", b.good.With("sub", 1))
	b.claims("sub null", b.good.With("sub", nil))
	b.claims("sub too long", b.good.With("sub", strings.Repeat("s", 2049)))
	b.claims("sub of two lines", b.good.With("sub", "alice\nroot"))
	b.add("sub with half a character", b.ec.Sign(b.tb, toJSON(b.tb, b.ec.Header()),
		strings.Replace(toJSON(b.tb, b.good), "alice", `al\ud800ce`, 1)))
}

func make65() []string {
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprint("a", i)
	}
	return many
}

func (b *badTokens) users() {
	many := func(n int) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = "g"
		}
		return list
	}
	for _, name := range []string{"groups", "amr", "scope", "scp"} {
		b.claims(name+" a number", b.good.With(name, 1))
		b.claims(name+" null", b.good.With(name, nil))
		b.claims(name+" an object", b.good.With(name, map[string]any{"admin": true}))
		b.claims(name+" with a number", b.good.With(name, []any{"g", 1}))
		b.claims(name+" with an empty one", b.good.With(name, []string{""}))
		b.claims(name+" with a line end", b.good.With(name, []string{"a\nb"}))
		b.claims(name+" with too long a one", b.good.With(name, []string{strings.Repeat("g", 1025)}))
		b.claims(name+" of too many", b.good.With(name, many(513)))
	}
	b.claims("scope of too many words", b.good.With("scope", strings.Repeat("s ", 257)))
	b.claims("acr a list", b.good.With("acr", []string{"mfa"}))
	b.claims("acr empty", b.good.With("acr", ""))
	b.claims("acr too long", b.good.With("acr", strings.Repeat("a", 257)))
}

func (b *badTokens) kinds() {
	plain := b.ec.Header().With("typ", "JWT")
	for name, value := range map[string]any{
		"nonce": "n", "at_hash": "h", "c_hash": "h", "s_hash": "h", "events": map[string]any{}, "typ": "ID", "token_use": "id",
	} {
		b.add("not an access token: "+name, b.ec.TokenHeader(b.tb, plain, b.good.With(name, value)))
		b.add("not an access token, without typ: "+name, b.ec.TokenHeader(b.tb, plain.Without("typ"), b.good.With(name, value)))
	}
	b.claims("bound to a key", b.good.With("cnf", map[string]any{"jkt": "x"}))
}
