package audit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// compareIndex compares the index of the segment that was read with what it
// should be. That there is none is no fault: it is made anew.
func (v *verification) compareIndex() error {
	path := filepath.Join(v.dir, indexName(v.first))
	f, err := openRegular(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil && !errors.Is(err, errIrregular) {
		return err
	}
	same := false
	if err == nil {
		defer func() { _ = f.Close() }() // opened for reading only
		info, err := os.Stat(filepath.Join(v.dir, segmentName(v.first)))
		if err != nil {
			return err
		}
		if same, err = holds(f, v.index.bytes(info.Size())); err != nil {
			return err
		}
	}
	if !same {
		return &TamperError{File: path, Sequence: v.first, Through: v.r.first - 1,
			Reason: "the index is not that of its segment, so that calls cannot be found by it; the records fit: delete the file, and the server makes it anew at its next start"}
	}
	return nil
}

// holds tells whether a file has just this content.
func holds(f *os.File, want []byte) (bool, error) {
	info, err := f.Stat()
	if err != nil || info.Size() != int64(len(want)) {
		return false, err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(f, got); err != nil {
		return false, err
	}
	return bytes.Equal(got, want), nil
}

// hashedAnew is the error that the tree does not have the root of a checkpoint.
// If the segment's index leads to that root, it still has the hashes that were
// signed, and the first record that differs from it is the one. Those before from
// do not matter: another checkpoint has vouched for them.
func (v *verification) hashedAnew(from uint64, c *Checkpoint) error {
	e := v.r.hashedAnew(from, c).(*TamperError) //nolint:errorlint // it is one, bare
	n := from - min(from, v.first)
	if n < uint64(len(v.index.offsets)) {
		e.Offset = v.index.offsets[n]
	}
	count := c.Size + 1 - min(c.Size+1, v.first)
	x, err := openDamagedIndex(v.dir, v.first)
	if err != nil || uint64(x.count) < count { //nolint:gosec // not negative
		return e
	}
	defer x.close()
	signed, err := x.leaves(0, int64(count)) //nolint:gosec // bounded by x.count
	if err != nil {
		return e
	}
	t, err := headerTree(v.dir, v.first)
	if err != nil {
		return e
	}
	for _, leaf := range signed {
		t.add(leaf)
	}
	if t.root() != c.Root {
		return e
	}
	for i := range signed {
		if v.index.leaves[i] != signed[i] {
			e.Sequence, e.Through, e.Offset = v.first+uint64(i), 0, v.index.offsets[i]
			e.Reason = "the record was changed and hashed anew: it does not have the hash that was signed"
			return e
		}
	}
	return e
}

// openDamagedIndex opens an index whose segment may have another length now.
func openDamagedIndex(dir string, first uint64) (*index, error) {
	f, err := openRegular(filepath.Join(dir, indexName(first)))
	if err != nil {
		return nil, err
	}
	x, err := readIndexHeader(f, first)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return x, nil
}

// headerTree is the tree before a segment, from its header.
func headerTree(dir string, first uint64) (tree, error) {
	f, err := openRegular(filepath.Join(dir, segmentName(first)))
	if err != nil {
		return tree{}, err
	}
	t, err := readHeader(f)
	return t, errors.Join(err, f.Close())
}
