package usertoken

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/sallyport/sallyport/identity"
)

const (
	// maxToken is how long a token may be, in bytes: what a header of HTTP/2 can
	// carry with room to spare, and a bound to all that is parsed from it.
	maxToken = 8 << 10
	// maxKeyID is how long a kid may be, in bytes.
	maxKeyID = 256
)

// token is a compact JWS of which nothing is verified yet but its form.
type token struct {
	raw    string
	alg    jose.SignatureAlgorithm
	kid    string // empty if the header has none
	typ    string // lower case, without "application/"; empty if the header has none
	claims claims
}

// unwanted are header parameters that would change what is verified, or with
// which key: a key comes from the issuer, never from the token.
var unwanted = []string{"crit", "b64", "cty", "enc", "zip", "jku", "jwk", "x5c", "x5u"}

// parse reads a token in the one form that each token has: three parts in
// canonical base64url, JSON objects without duplicate names, an algorithm of
// algs.
func parse(raw string, algs []jose.SignatureAlgorithm) (*token, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return nil, invalid("it is not a signed JWT of three parts")
	}
	header, err := decodePart(parts[0])
	if err != nil {
		return nil, invalid("its header: %w", err)
	}
	t := &token{raw: raw}
	if err := t.readHeader(header, algs); err != nil {
		return nil, err
	}
	if t.claims, err = decodePart(parts[1]); err != nil {
		return nil, invalid("its claims: %w", err)
	}
	if _, err := decodeBase64(parts[2]); err != nil {
		return nil, invalid("its signature: %w", err)
	}
	return t, nil
}

func (t *token) readHeader(header claims, algs []jose.SignatureAlgorithm) error {
	// The algorithm comes first: nothing else matters of a token without a signature
	// that we would check.
	alg, err := header.text("alg", 16)
	if err != nil {
		return err
	}
	t.alg = jose.SignatureAlgorithm(alg)
	if !slices.Contains(algs, t.alg) {
		return invalid("its algorithm %s is not accepted", clip(alg))
	}
	for _, name := range unwanted {
		if _, ok := header[name]; ok {
			return invalid("its header has %q", name)
		}
	}
	if t.kid, err = header.text("kid", maxKeyID); err != nil {
		return err
	}
	typ, err := header.text("typ", 64)
	if err != nil {
		return err
	}
	t.typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	return nil
}

func decodePart(part string) (claims, error) {
	b, err := decodeBase64(part)
	if err != nil {
		return nil, err
	}
	// go-jose's decoder refuses duplicate names at every level and knows upper from
	// lower case; that of the standard library takes the last and does not. Its
	// errors quote what they are about, so they go no further.
	var c claims
	if err := json.Unmarshal(b, &c); err != nil || c == nil {
		return nil, errors.New("not a JSON object, or one with duplicate names")
	}
	return c, nil
}

// decodeBase64 refuses what is not canonical, so that a token has no second form.
func decodeBase64(part string) ([]byte, error) {
	// The decoder skips line ends even when it is strict.
	if strings.ContainsAny(part, "\r\n") {
		return nil, errors.New("not canonical base64url")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("not canonical base64url")
	}
	return b, nil
}

// verifySignature checks the token's signature with the key, which fits its
// algorithm.
func (t *token) verifySignature(key any) error {
	jws, err := jose.ParseSignedCompact(t.raw, []jose.SignatureAlgorithm{t.alg})
	if err != nil {
		return invalid("it is not a signed JWT")
	}
	if _, err := jws.Verify(key); err != nil {
		return invalid("its signature is not of key %s", clip(t.kid))
	}
	return nil
}

// invalid is an error of what is wrong with a token.
func invalid(format string, args ...any) error {
	return wrap(identity.ErrTokenInvalid, format, args...)
}

func wrap(sentinel error, format string, args ...any) error {
	return fmt.Errorf("%w: %w", sentinel, fmt.Errorf(format, args...))
}

// clip makes a short printable string, in quotes, of one that a caller made up.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
