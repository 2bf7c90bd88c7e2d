package devauthority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// jwtKeys sign and verify the JWT-SVIDs of one trust domain. They are immutable.
type jwtKeys struct {
	key *ecdsa.PrivateKey
	// older are the keys before this one that are still in the bundle.
	older []formerKey
}

// formerKey is a JWT key that no longer signs.
type formerKey struct {
	public *ecdsa.PublicKey
	leaves time.Time // the bundle
}

// openJWTKeys loads the JWT keys of a trust domain from dir, or makes and stores
// one.
func openJWTKeys(dir string, td spiffeid.TrustDomain, now time.Time) (*jwtKeys, error) {
	path := jwtStatePath(dir, td)
	var keys *jwtKeys
	err := load(path, "JWT", func(raw []byte) (err error) {
		keys, err = parseJWTKeys(raw)
		return err
	})
	if err != nil {
		return nil, err
	}
	if keys != nil {
		return keys.without(now), nil
	}
	if keys, err = newJWTKeys(); err != nil {
		return nil, fmt.Errorf("new JWT key of %s: %w", td, err)
	}
	return keys, storeJWTKeys(path, keys)
}

func newJWTKeys() (*jwtKeys, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &jwtKeys{key: key}, nil
}

// rotated are keys of which a new one signs and the old one stays for keep.
func (k *jwtKeys) rotated(now time.Time, keep time.Duration) (*jwtKeys, error) {
	fresh, err := newJWTKeys()
	if err != nil {
		return nil, err
	}
	fresh.older = append([]formerKey{{&k.key.PublicKey, now.Add(keep)}}, k.older...)
	return fresh.without(now), nil
}

// without are the keys without the older ones whose time has come.
func (k *jwtKeys) without(now time.Time) *jwtKeys {
	next := *k
	next.older = slices.DeleteFunc(slices.Clone(k.older), func(f formerKey) bool { return !now.Before(f.leaves) })
	return &next
}

// bundle is what verifies the JWT-SVIDs: a JWKS in the form of the SPIFFE bundle
// format, the key that signs first.
func (k *jwtKeys) bundle() ([]byte, error) {
	set := jose.JSONWebKeySet{}
	publics := []*ecdsa.PublicKey{&k.key.PublicKey}
	for _, old := range k.older {
		publics = append(publics, old.public)
	}
	for _, public := range publics {
		id, err := keyID(public)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: public, KeyID: id, Use: "jwt-svid"})
	}
	return json.Marshal(set)
}

// issue makes a JWT-SVID. Every audience can use it at every other.
func (k *jwtKeys) issue(id spiffeid.ID, audience []string, now time.Time, ttl time.Duration) (string, error) {
	kid, err := keyID(&k.key.PublicKey)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k.key, KeyID: kid}},
		new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Subject:  id.String(),
		Audience: audience,
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(ttl)),
	}).Serialize()
}

// keyID is the key's thumbprint by RFC 7638.
func keyID(public *ecdsa.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

func parseJWTKeys(raw []byte) (*jwtKeys, error) {
	k := new(jwtKeys)
	err := blocks(raw, func(block *pem.Block) error {
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return err
			}
			if k.key, err = p256(key); err != nil {
				return err
			}
		case "PUBLIC KEY":
			key, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return err
			}
			public, ok := key.(*ecdsa.PublicKey)
			if !ok {
				return fmt.Errorf("a key of type %T", key)
			}
			at, err := leaves(block)
			if err != nil {
				return err
			}
			k.older = append(k.older, formerKey{public, at})
		default:
			return fmt.Errorf("unknown block %q", block.Type)
		}
		return nil
	})
	if err == nil && k.key == nil {
		err = errors.New("no private key in it")
	}
	return k, err
}

// p256 is the key if ES256 can sign with it.
func p256(key any) (*ecdsa.PrivateKey, error) {
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("a key of type %T, not of the curve P-256", key)
	}
	return k, nil
}

// storeJWTKeys puts the keys in the place of what is there, wholly or not at all.
func storeJWTKeys(path string, k *jwtKeys) error {
	key, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := pem.Encode(&buf, &pem.Block{Type: "PRIVATE KEY", Bytes: key}); err != nil {
		return err
	}
	for _, old := range k.older {
		public, err := x509.MarshalPKIXPublicKey(old.public)
		if err != nil {
			return err
		}
		if err := pem.Encode(&buf, &pem.Block{Type: "PUBLIC KEY", Headers: leaving(old.leaves), Bytes: public}); err != nil {
			return err
		}
	}
	return writeFile(path, buf.Bytes())
}
