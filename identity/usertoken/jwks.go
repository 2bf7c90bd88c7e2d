package usertoken

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxKeys is how many keys a set may have; issuers have two to ten.
	maxKeys = 64
	// Sizes of RSA keys, in bits: a shorter one is weak, a longer one makes each
	// signature a burden.
	minRSA, maxRSA = 2048, 8192
)

// jwks are the keys of an issuer that can verify a token. It is immutable; its
// address stands for this state of the issuer's keys.
type jwks struct {
	keys     []jose.JSONWebKey
	unusable int // keys that the document has besides
}

// parseJWKS reads a JSON Web Key Set and keeps the keys that may verify by one of
// the algorithms. Others, as for encryption or of kinds that we do not know, are
// passed over, as the standard asks for. A document that is not a set is an
// error; an empty set is not: then the issuer has withdrawn all.
func parseJWKS(doc []byte, algs []jose.SignatureAlgorithm) (*jwks, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(doc, &raw); err != nil {
		return nil, errors.New("not a JSON Web Key Set")
	}
	if raw.Keys == nil {
		return nil, errors.New("not a JSON Web Key Set: no keys in it")
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("a JSON Web Key Set of %d keys, more than %d", len(raw.Keys), maxKeys)
	}
	set := &jwks{}
	for _, r := range raw.Keys {
		var key jose.JSONWebKey
		var more struct {
			Ops []string `json:"key_ops"`
		}
		if json.Unmarshal(r, &key) != nil || json.Unmarshal(r, &more) != nil || !usable(&key, more.Ops, algs) {
			set.unusable++
			continue
		}
		set.keys = append(set.keys, key)
	}
	return set, nil
}

// usable tells whether a key is for signatures, by one of the algorithms.
func usable(key *jose.JSONWebKey, ops []string, algs []jose.SignatureAlgorithm) bool {
	switch {
	case key.Use != "" && key.Use != "sig":
		return false
	case ops != nil && !slices.Contains(ops, "verify"):
		return false
	}
	return slices.ContainsFunc(algs, func(alg jose.SignatureAlgorithm) bool { return serves(key, alg) })
}

// find returns a key of that name that serves the algorithm, or any that does if
// there is no name, and how many there are. Unless there is one, none is meant.
func (s *jwks) find(alg jose.SignatureAlgorithm, kid string) (key any, count int) {
	for i := range s.keys {
		if k := &s.keys[i]; (kid == "" || k.KeyID == kid) && serves(k, alg) {
			key = k.Key
			count++
		}
	}
	return key, count
}

func (s *jwks) ids() []string {
	ids := make([]string, len(s.keys))
	for i, k := range s.keys {
		ids[i] = k.KeyID
	}
	return ids
}

// serves tells whether the key is of the algorithm, and made for no other.
func serves(key *jose.JSONWebKey, alg jose.SignatureAlgorithm) bool {
	return (key.Algorithm == "" || key.Algorithm == string(alg)) && fits(key.Key, alg)
}

// fits tells whether a public key is of the kind and size that the algorithm
// takes. Anything but an asymmetric algorithm fits no key, and no key but a
// public one fits.
func fits(key any, alg jose.SignatureAlgorithm) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		size := k.N.BitLen()
		return slices.Contains(asymmetric[:6], alg) && size >= minRSA && size <= maxRSA
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && k.Curve == elliptic.P256() ||
			alg == jose.ES384 && k.Curve == elliptic.P384() ||
			alg == jose.ES512 && k.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}
