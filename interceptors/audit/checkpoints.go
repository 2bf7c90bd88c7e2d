package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

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
	f, err := os.OpenFile(filepath.Join(dir, checkpointsName(first)), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // in the operator's own directory
	if err != nil {
		return err
	}
	fresh := s.first != first
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
	data, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	var all []Checkpoint
	notes, torn := splitNotes(data)
	if len(torn) > 0 && !tornNote(torn) {
		return nil, &TamperError{File: path, Offset: int64(len(data) - len(torn)), Sequence: first, Reason: "not a checkpoint"}
	}
	off := 0
	for _, n := range notes {
		c, err := ParseCheckpoint(n, verifiers)
		if err != nil {
			return nil, &TamperError{File: path, Offset: int64(off), Sequence: max(c.Size, first), Reason: err.Error()}
		}
		if len(all) > 0 && c.Size <= all[len(all)-1].Size || c.Size+1 < first {
			return nil, &TamperError{File: path, Offset: int64(off), Sequence: first,
				Reason: fmt.Sprintf("checkpoint of %d records is out of order", c.Size)}
		}
		all, off = append(all, c), off+len(n)
	}
	return all, nil
}

// tornNote tells whether b can be the beginning of a checkpoint, which a crash cut
// off: it lacks a line.
func tornNote(b []byte) bool {
	const lines, longest = 5, 4 << 10
	return bytes.Count(b, []byte("\n")) < lines && len(b) <= longest
}

// publicKeys are those that the log's own directory lists.
func publicKeys(dir string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, publicFile))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(data)), nil
}

// listPublicKey adds a key to those that the directory lists.
func listPublicKey(dir, public string) error {
	known, err := publicKeys(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, k := range known {
		if k == public {
			return nil
		}
	}
	path := filepath.Join(dir, publicFile)
	if err := os.WriteFile(path+unfinished, []byte(strings.Join(append(known, public), "\n")+"\n"), 0o600); err != nil {
		return errors.Join(err, os.Remove(path+unfinished))
	}
	return os.Rename(path+unfinished, path)
}
