package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	stdhash "hash"
	"sync"
)

// KeyBytes is the least length of a digest key: that of the hash, as RFC 2104
// recommends.
const KeyBytes = sha256.Size

// Digester makes the keyed digests of inputs that records carry in place of
// the inputs. Whoever has the key can tell whether a record was made for an
// input; without it, guessing inputs leads nowhere. Safe for concurrent use.
type Digester struct{ pool sync.Pool }

// Digest is one HMAC-SHA256 in the making. It is used by one goroutine.
type Digest struct {
	mac     stdhash.Hash
	owner   *Digester
	scratch [64]byte
}

// NewDigester returns a Digester under the key, which has at least 32 bytes. It
// keeps a copy of the key.
func NewDigester(key []byte) (*Digester, error) {
	if len(key) < KeyBytes {
		return nil, fmt.Errorf("digest key has %d bytes, at least %d are needed", len(key), KeyBytes)
	}
	key = bytes.Clone(key)
	d := new(Digester)
	d.pool.New = func() any { return &Digest{mac: hmac.New(sha256.New, key), owner: d} }
	return d, nil
}

// New returns an empty Digest. Release it when done.
func (d *Digester) New() *Digest { return d.pool.Get().(*Digest) }

// Write adds p. It never returns an error.
func (d *Digest) Write(p []byte) (int, error) { return d.mac.Write(p) }

// Uint64 adds v as eight bytes.
func (d *Digest) Uint64(v uint64) {
	d.mac.Write(binary.LittleEndian.AppendUint64(d.scratch[:0], v))
}

// String adds the length of s and its bytes, so that strings in sequence cannot
// be taken for others.
func (d *Digest) String(s string) {
	d.Uint64(uint64(len(s)))
	for len(s) > 0 {
		n := copy(d.scratch[:], s)
		d.mac.Write(d.scratch[:n])
		s = s[n:]
	}
}

// Sum appends the 32 bytes of the digest of what was written to b.
func (d *Digest) Sum(b []byte) []byte { return d.mac.Sum(b) }

// Release gives the Digest back for reuse; it must not be used afterwards.
func (d *Digest) Release() {
	d.mac.Reset()
	d.owner.pool.Put(d)
}
