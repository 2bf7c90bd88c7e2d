package audit_test

import (
	"bytes"
	"encoding/hex"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func newDigester(t testing.TB, key []byte) *audit.Digester {
	t.Helper()
	d, err := audit.NewDigester(key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func digest(d *audit.Digester, parts ...string) string {
	h := d.New()
	defer h.Release()
	for _, p := range parts {
		_, _ = h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestDigest(t *testing.T) {
	key := bytes.Repeat([]byte{0xaa}, 131)
	d := newDigester(t, key)
	clear(key) // the Digester keeps a copy
	// RFC 4231, test case 6.
	const want = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if got := digest(d, "Test Using Larger Than Block-Size Key", " - Hash Key First"); got != want {
					t.Errorf("digest %s, want %s", got, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestDigestKey(t *testing.T) {
	if _, err := audit.NewDigester(make([]byte, 31)); err == nil {
		t.Error("a key of 31 bytes was accepted")
	}
	a, b := newDigester(t, bytes.Repeat([]byte{1}, 32)), newDigester(t, bytes.Repeat([]byte{2}, 32))
	if digest(a, "input") == digest(b, "input") {
		t.Error("the digest does not depend on the key")
	}
}

func BenchmarkDigest(b *testing.B) {
	d := newDigester(b, make([]byte, 32))
	input, sum := make([]byte, 240), make([]byte, 0, 32)
	b.ReportAllocs()
	for b.Loop() {
		h := d.New()
		_, _ = h.Write(input)
		sum = h.Sum(sum[:0])
		h.Release()
	}
}
