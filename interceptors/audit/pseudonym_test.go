package audit_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func newPseudonymizer(t testing.TB, key []byte) *audit.Pseudonymizer {
	t.Helper()
	p, err := audit.NewPseudonymizer(key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPseudonym(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	p := newPseudonymizer(t, key)
	clear(key) // it keeps a copy
	again, other := newPseudonymizer(t, bytes.Repeat([]byte{1}, 32)), newPseudonymizer(t, bytes.Repeat([]byte{2}, 32))
	alice := p.Pseudonym("alice")
	// As long as records are kept, this must not change: it was computed by
	//   printf '%b' '\x23\0\0\0\0\0\0\0sallyport audit pseudonym, format 1\x05\0\0\0\0\0\0\0alice' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0101...01
	if want := "pseudonym:73ff37176e7cc60cdfee0e51c98c44aa"; alice != want {
		t.Errorf("%s, want %s", alice, want)
	}
	switch {
	case alice != again.Pseudonym("alice"):
		t.Error("the same subject and key give another pseudonym")
	case alice == p.Pseudonym("bob"), alice == p.Pseudonym(""), alice == p.Pseudonym(alice):
		t.Error("two subjects have one pseudonym")
	case alice == other.Pseudonym("alice"):
		t.Error("the key does not matter")
	case !audit.IsPseudonym(alice):
		t.Errorf("%s is not taken for a pseudonym", alice)
	}
	for _, s := range []string{"", "alice", "pseudonym:", "pseudonym:alice", alice + "00", strings.TrimPrefix(alice, "pseudonym:")} {
		if audit.IsPseudonym(s) {
			t.Errorf("%q is taken for a pseudonym", s)
		}
	}
}

// The operator may give one key for both uses.
func TestPseudonymIsNoDigest(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	got := newPseudonymizer(t, key).Pseudonym("alice")
	if strings.HasPrefix(digest(newDigester(t, key), "alice"), strings.TrimPrefix(got, "pseudonym:")) {
		t.Error("the pseudonym of a subject is the digest of an input")
	}
}

func TestPseudonymKey(t *testing.T) {
	if p, err := audit.NewPseudonymizer(make([]byte, 31)); err == nil || p != nil || !strings.Contains(err.Error(), "31 bytes") {
		t.Errorf("%v, %v", p, err)
	}
}
