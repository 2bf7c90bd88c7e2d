package audit

import (
	"crypto/sha256"
	stdhash "hash"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

type hash = tlog.Hash

// tree is the Merkle tree (RFC 6962) over the records of a log, kept as the
// roots of the complete subtrees that cover it, the largest first. That is all
// it takes to add records and to know the root, 64 hashes at the most.
type tree struct {
	size  uint64 // number of records
	edges []hash // one for each bit that is set in size
}

// edgesOf is how many hashes a tree of that size is kept as.
func edgesOf(size uint64) int {
	n := 0
	for ; size > 0; size &= size - 1 {
		n++
	}
	return n
}

// add adds a record by the hash of its leaf.
func (t *tree) add(leaf hash) {
	n := len(t.edges)
	for s := t.size; s&1 == 1; s >>= 1 {
		n--
		leaf = tlog.NodeHash(t.edges[n], leaf)
	}
	t.edges = append(t.edges[:n], leaf)
	t.size++
}

// root is the hash over all records.
func (t *tree) root() hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	n := len(t.edges) - 1
	root := t.edges[n]
	for n--; n >= 0; n-- {
		root = tlog.NodeHash(t.edges[n], root)
	}
	return root
}

// set makes t a copy of other.
func (t *tree) set(other *tree) {
	t.size, t.edges = other.size, append(t.edges[:0], other.edges...)
}

func (t *tree) equal(other *tree) bool {
	return t.size == other.size && slices.Equal(t.edges, other.edges)
}

// leafHasher hashes records as leaves, as tlog.RecordHash does, without
// allocating. It is used by one goroutine.
type leafHasher struct{ h stdhash.Hash }

func newLeafHasher() *leafHasher { return &leafHasher{sha256.New()} }

var leafPrefix = []byte{0}

func (l *leafHasher) sum(record []byte) (leaf hash) {
	l.h.Reset()
	l.h.Write(leafPrefix)
	l.h.Write(record)
	l.h.Sum(leaf[:0])
	return leaf
}
