package audit

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// pseudonymPrefix begins every pseudonym, so that nobody takes one for a subject.
const pseudonymPrefix = "pseudonym:"

// pseudonymBytes is how much of the HMAC a pseudonym has: enough that no two
// subjects share one.
const pseudonymBytes = 16

// Pseudonymizer replaces the subjects of users by keyed hashes. Whoever has the
// key can tell whether a record is about a user whose subject is known; without it
// guessing subjects leads nowhere. Safe for concurrent use.
type Pseudonymizer struct{ digester *Digester }

// NewPseudonymizer returns a Pseudonymizer under the key, which has at least 32
// bytes. It keeps a copy of the key.
func NewPseudonymizer(key []byte) (*Pseudonymizer, error) {
	if len(key) < KeyBytes {
		return nil, fmt.Errorf("pseudonym key has %d bytes, at least %d are needed", len(key), KeyBytes)
	}
	d, err := NewDigester(key)
	if err != nil {
		return nil, err
	}
	return &Pseudonymizer{d}, nil
}

// Pseudonym is what stands for the subject: "pseudonym:" and 32 hexadecimal
// digits, the same for the same subject and key.
func (p *Pseudonymizer) Pseudonym(subject string) string {
	d := p.digester.New()
	defer d.Release()
	// No digest of inputs begins like this, should the two keys be the same.
	d.String("sallyport audit pseudonym, format 1")
	d.String(subject)
	var sum [KeyBytes]byte
	return pseudonymPrefix + hex.EncodeToString(d.Sum(sum[:0])[:pseudonymBytes])
}

// IsPseudonym is whether a subject on record has the form of a pseudonym.
func IsPseudonym(subject string) bool {
	digits, ok := strings.CutPrefix(subject, pseudonymPrefix)
	b, err := hex.DecodeString(digits)
	return ok && err == nil && len(b) == pseudonymBytes
}
