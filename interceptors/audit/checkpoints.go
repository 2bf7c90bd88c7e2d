package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/mod/sumdb/note"
)

// checkpoints are those that the log has made of itself. Each segment has a file
// of them beside it.
type checkpoints struct {
	last Checkpoint // Note is nil if there is none

	// Where the next one is put: behind the whole ones of the segment that begins
	// with first, which is 0 if that is not known.
	first uint64
	end   int64
}

// append makes c the last checkpoint, on disk, in the file of the segment that
// begins with first. What a crash left half written there is overwritten.
func (s *checkpoints) append(dir string, first uint64, c Checkpoint, sync func(*os.File) error) error {
	f, err := os.OpenFile(filepath.Join(dir, checkpointsName(first)), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // in the operator's own directory
	if err != nil {
		return err
	}
	info, err := f.Stat()
	fresh := err == nil && (s.first != first || info.Size() != s.end)
	if fresh {
		var old []byte
		if old, err = io.ReadAll(f); err == nil {
			s.end = place(old, c)
			err = f.Truncate(s.end)
		}
	}
	s.first = 0
	if err == nil {
		_, err = f.WriteAt(c.Note, s.end)
	}
	if err == nil {
		err = sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil && fresh {
		err = syncDirectory(dir, sync)
	}
	if err != nil {
		return err
	}
	s.last, s.first, s.end = c, first, s.end+int64(len(c.Note))
	return nil
}

// place is where c is put among old ones: behind the whole ones, over one that an
// error left of just as many records.
func place(old []byte, c Checkpoint) int64 {
	notes, torn := splitNotes(old)
	end := len(old) - len(torn)
	if n := len(notes) - 1; n >= 0 {
		if last, err := ParseCheckpoint(notes[n], nil); err == nil && last.Size == c.Size {
			end -= len(notes[n])
		}
	}
	return int64(end)
}

// readCheckpoints reads the checkpoints of a segment, the oldest first. There may
// be none. A torn one at the end is passed over.
func readCheckpoints(dir string, first uint64, verifiers note.Verifiers) ([]Checkpoint, error) {
	path := filepath.Join(dir, checkpointsName(first))
	off := int64(0)
	tampered := func(reason string) error {
		return &TamperError{File: path, Offset: off, Sequence: first, Reason: reason}
	}
	f, err := openRegular(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case errors.Is(err, errIrregular):
		return nil, tampered(err.Error())
	case err != nil:
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading only
	var all []Checkpoint
	var torn []byte
	notes := bufio.NewScanner(f)
	notes.Buffer(nil, longestNote)
	notes.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		n := noteLength(data, atEOF)
		switch {
		case n > 0:
			return n, data[:n:n], nil
		case atEOF:
			torn = bytes.Clone(data)
			return len(data), nil, nil
		}
		return 0, nil, nil
	})
	for notes.Scan() {
		n := notes.Bytes()
		c, err := ParseCheckpoint(n, verifiers)
		if err != nil {
			return nil, tampered(err.Error())
		}
		if len(all) > 0 && c.Size <= all[len(all)-1].Size || c.Size+1 < first {
			return nil, tampered(fmt.Sprintf("checkpoint of %d records is out of order", c.Size))
		}
		all, off = append(all, c), off+int64(len(n))
	}
	if err := notes.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return nil, err
	}
	if notes.Err() != nil || len(torn) > 0 && !tornNote(torn) {
		return nil, tampered("not a checkpoint")
	}
	return all, nil
}

// orphaned finds checkpoints whose segment is not among those that begin with firsts,
// and was not deleted by retention, which begins with the oldest. It returns the
// first sequence of that segment, or 0.
func orphaned(dir string, firsts []uint64) (uint64, error) {
	beside, err := listCheckpoints(dir)
	for _, first := range beside {
		if !slices.Contains(firsts, first) && (len(firsts) == 0 || first > firsts[0]) {
			return first, err
		}
	}
	return 0, err
}

// listCheckpoints lists the first sequences of the segments that have checkpoints.
func listCheckpoints(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		first, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), checkpointsSuffix), 10, 64)
		if err == nil && checkpointsName(first) == e.Name() {
			firsts = append(firsts, first)
		}
	}
	return firsts, nil
}

// missing is the error that there are checkpoints of a segment, but not the segment.
func missing(dir string, first uint64) error {
	return &TamperError{File: filepath.Join(dir, segmentName(first)), Sequence: first,
		Reason: "segment is missing, its checkpoints are there"}
}

// longestNote is more than any checkpoint has, whatever the names of its keys.
const longestNote = 64 << 10

// tornNote tells whether b can be the beginning of a checkpoint, which a crash cut
// off: it lacks a line.
func tornNote(b []byte) bool {
	const lines, longest = 5, 4 << 10
	return bytes.Count(b, []byte("\n")) < lines && len(b) <= longest
}

// publicKeys are those that the log's own directory lists.
func publicKeys(dir string) ([]string, error) {
	path := filepath.Join(dir, publicFile)
	f, err := openRegular(path)
	if err != nil {
		if errors.Is(err, errIrregular) {
			err = &TamperError{File: path, Sequence: 1, Reason: err.Error()}
		}
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading only
	const most = 1 << 20
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = &TamperError{File: path, Sequence: 1, Reason: "too long for a list of keys"}
	}
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(data)), nil
}

// listPublicKey adds a key to those that the directory lists.
func listPublicKey(dir, public string, sync func(*os.File) error) error {
	known, err := publicKeys(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, k := range known {
		if k == public {
			return nil
		}
	}
	return writeWhole(filepath.Join(dir, publicFile), []byte(strings.Join(append(known, public), "\n")+"\n"), sync)
}
