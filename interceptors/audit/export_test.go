package audit

import (
	"io"
	"os"
	"time"
)

// What tests have to reach: the intervals of the committer, the sync, because no
// disk fails or hangs in it on demand, and what whoever forges a log would use.
const (
	ProbeInterval  = probeInterval
	FlushInterval  = flushInterval
	RetainInterval = retainInterval
	MaxCommit      = maxCommit
)

func (c Config) WithSync(sync func(*os.File) error) Config {
	c.sync, c.syncData = sync, sync
	return c
}

// WithRetention looks for old segments so often.
func (c Config) WithRetention(every time.Duration) Config {
	c.retain = every
	return c
}

// Tree is the tree over records.
type Tree struct{ t tree }

// Add adds a record by its hash.
func (t *Tree) Add(leaf [32]byte) { t.t.add(leaf) }

// Root is the root.
func (t *Tree) Root() [32]byte { return t.t.root() }

// Size is the number of records.
func (t *Tree) Size() uint64 { return t.t.size }

// Header is that of a segment that follows.
func (t *Tree) Header() []byte { return appendHeader(nil, &t.t) }

// Reindex makes the index of a full segment anew, whatever its checkpoints say.
func Reindex(dir string, first, next uint64) error {
	return buildIndex(dir, first, next, (*os.File).Sync)
}

// WellFormed tells whether Verify accepts it as a record, whatever its sequence.
func WellFormed(record []byte) bool { return recordShape.wellFormed(record) }

// ReadHeader reads the tree before a segment from its header.
func ReadHeader(r io.Reader) (*Tree, error) {
	t, err := readHeader(r)
	return &Tree{t}, err
}

// MarshalAppend encodes a record.
var MarshalAppend = marshalAppend
