// Package audittest helps tests that need an audit log.
package audittest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// Name is the name of the key here, hence the origin of its logs.
const Name = "sallyport.test/audit"

// Private is a signing key as configurations refer to it: always the same, so that
// logs are. It guards nothing.
var Private = private(Name, bytes.Repeat([]byte{7}, ed25519.SeedSize))

// Key is the same key, parsed.
func Key() *audit.SigningKey {
	key, err := audit.ParseSigningKey(Private)
	if err != nil {
		panic(err)
	}
	return key
}

// private is a signer's key as golang.org/x/mod/sumdb/note has it.
func private(name string, seed []byte) string {
	const ed25519Key = "\x01"
	public, _ := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	sum := sha256.Sum256([]byte(name + "\n" + ed25519Key + string(public)))
	return "PRIVATE+KEY+" + name + "+" + hex.EncodeToString(sum[:4]) + "+" +
		base64.StdEncoding.EncodeToString(append([]byte(ed25519Key), seed...))
}
