package audit_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// TestTree compares the tree with that of tlog, at every size up to some powers of
// two and at random ones beyond.
func TestTree(t *testing.T) {
	const every, most = 300, 20_000
	var tree audit.Tree
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var hashes []tlog.Hash
		for _, i := range indexes {
			hashes = append(hashes, stored[i])
		}
		return hashes, nil
	})
	for n := range int64(most) {
		if n <= every || rand.N(200) == 0 || n&(n-1) == 0 || n&(n+1) == 0 {
			want, err := tlog.TreeHash(n, read)
			if err != nil {
				t.Fatal(err)
			}
			if got := tree.Root(); tlog.Hash(got) != want || tree.Size() != uint64(n) {
				t.Fatalf("root of %d records (%d) is %x, want %x", n, tree.Size(), got, want)
			}
			// A header carries the tree over to another segment.
			again, err := audit.ReadHeader(bytes.NewReader(tree.Header()))
			if err != nil || again.Root() != tree.Root() || again.Size() != tree.Size() {
				t.Fatalf("header after %d records: %v", n, err)
			}
		}
		record := make([]byte, rand.N(100))
		for i := range record {
			record[i] = byte(rand.Uint32())
		}
		hashes, err := tlog.StoredHashes(n, record, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		tree.Add(tlog.RecordHash(record))
	}
}

// FuzzHeader reads what is no header, and what is one gives the same again.
func FuzzHeader(f *testing.F) {
	var tree audit.Tree
	for range 40 {
		f.Add(tree.Header())
		tree.Add(tlog.RecordHash(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := audit.ReadHeader(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again := tree.Header(); !bytes.HasPrefix(b, again) {
			t.Errorf("%x is read as %x", b, again)
		}
		tree.Root()
	})
}
