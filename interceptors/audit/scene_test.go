package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// scene is a log for manipulations, and what an attacker has besides.
type scene struct {
	dir     string // a copy of the log; untouched files are shared with the original
	firsts  []uint64
	records uint64

	outside  []byte // the last checkpoint, as a witness keeps it
	backup   string // the log as it was once
	old      uint64 // how many records it had
	other    string // a log of as many other records, of the same key
	stranger string // one of another key
}

// place is what a TamperError has to name.
type place struct {
	file     string
	sequence uint64
	through  uint64
}

func (p place) String() string { return fmt.Sprintf("%d..%d in %s", p.sequence, p.through, p.file) }

func nameOf(first uint64) string      { return fmt.Sprintf("%020d.log", first) }
func besideOf(first uint64) string    { return fmt.Sprintf("%020d.checkpoints", first) }
func indexNameOf(first uint64) string { return fmt.Sprintf("%020d.index", first) }

// newScene is a scene whose log has so many records. Large ones are not waited for
// one by one.
func newScene(t *testing.T, records int, segmentBytes int64) *scene {
	t.Helper()
	base := t.TempDir()
	private, _, err := audit.GenerateKey("sallyport.test/audit")
	if err != nil {
		t.Fatal(err)
	}
	strange, err := audit.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{records: uint64(records), old: uint64(min(records/2, 1000)), backup: filepath.Join(base, "backup")}
	fill := func(name, ids string, key *audit.SigningKey, from, to int) string {
		cfg := audit.Config{Key: key, Dir: filepath.Join(base, name), SegmentBytes: segmentBytes, Queue: max(to, 1)}
		l := open(t, cfg)
		for i := from; i <= to; i++ {
			durability := audit.Required
			if records > 10_000 {
				durability = audit.Async
			}
			if err := l.Append(t.Context(), record(fmt.Sprintf("%s-%d", ids, i)), durability); err != nil {
				t.Fatal(err)
			}
		}
		closed(t, l)
		return cfg.Dir
	}
	s.dir = fill("audit", "call", key, 1, int(s.old))
	if err := os.CopyFS(s.backup, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	fill("audit", "call", key, int(s.old)+1, records)
	s.other = fill("other", "else", key, 1, records)
	s.stranger = fill("stranger", "call", strange, 1, records)
	for _, file := range segmentFiles(t, s.dir) {
		s.firsts = append(s.firsts, firstOf(t, file))
	}
	s.outside = verify(t, s.dir).Checkpoint.Note
	return s
}

func firstOf(t testing.TB, file string) uint64 {
	t.Helper()
	first, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(file), ".log"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return first
}

// copyOf is a scene that may be changed by what replaces files, as all below does.
func (s *scene) copyOf(t *testing.T) *scene {
	t.Helper()
	c := *s
	c.dir = linked(t, s.dir)
	return &c
}

// linked is a copy of a log whose files are shared.
func linked(t testing.TB, dir string) string {
	t.Helper()
	to, err := os.MkdirTemp(filepath.Dir(dir), "copy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(to) })
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Link(filepath.Join(dir, e.Name()), filepath.Join(to, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func (s *scene) read(t testing.TB, name string) []byte {
	t.Helper()
	return readFile(t, filepath.Join(s.dir, name))
}

// put replaces a file, and leaves the one that it is shared with as it is.
func (s *scene) put(t testing.TB, name string, content []byte) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	writeFile(t, path, content)
}

func (s *scene) rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(s.dir, from), filepath.Join(s.dir, to)); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) edit(t testing.TB, name string, change func([]byte) []byte) {
	t.Helper()
	s.put(t, name, change(s.read(t, name)))
}

// Where manipulations take place: in the middle of the middle segment.
func (s *scene) segment() uint64 { return s.firsts[len(s.firsts)/2] }
func (s *scene) last() uint64    { return s.firsts[len(s.firsts)-1] }
func (s *scene) victim() uint64 {
	return s.segment() + (s.next(s.segment())-s.segment())/2
}

// next is the first sequence of the segment behind one, or behind the log.
func (s *scene) next(first uint64) uint64 {
	i, _ := slices.BinarySearch(s.firsts, first)
	if i+1 < len(s.firsts) {
		return s.firsts[i+1]
	}
	return s.records + 1
}

// full tells whether a segment is full, and hence has an index.
func (s *scene) full(first uint64) bool { return first != s.last() }

// at is where a record is.
func (s *scene) at(sequence uint64) place {
	i, found := slices.BinarySearch(s.firsts, sequence)
	if !found {
		i--
	}
	return place{file: nameOf(s.firsts[i]), sequence: sequence}
}

// among is where a record is that was hashed anew: from one checkpoint to the next.
func (s *scene) among(t testing.TB, sequence uint64) place {
	t.Helper()
	from := uint64(1)
	for _, first := range s.firsts {
		for _, note := range notesOf(s.read(t, besideOf(first))) {
			c, err := audit.ParseCheckpoint(note, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.Size >= sequence {
				return place{nameOf(first), from, c.Size}
			}
			from = c.Size + 1
		}
	}
	t.Fatalf("no checkpoint covers record %d", sequence)
	return place{}
}

// notesOf splits a file of checkpoints, each of which has one signature.
func notesOf(b []byte) (notes [][]byte) {
	for len(b) > 0 {
		end := bytes.Index(b, []byte("\n\n")) + 2
		end += bytes.IndexByte(b[end:], '\n') + 1
		notes, b = append(notes, b[:end:end]), b[end:]
	}
	return notes
}

// inFrames changes the frames of the middle segment; i is that of the victim.
func (s *scene) inFrames(t testing.TB, change func(f [][]byte, i int) [][]byte) {
	t.Helper()
	s.edit(t, nameOf(s.segment()), func(b []byte) []byte {
		f := change(frames(b), int(s.victim()-s.segment()))
		return slices.Concat(b[:headerOf(b)], slices.Concat(f...))
	})
}

// inRecord changes the frame of the victim in its place; off is counted from its
// beginning, or from its end.
func (s *scene) inRecord(t testing.TB, off int, change func(b []byte)) place {
	t.Helper()
	s.inFrames(t, func(f [][]byte, i int) [][]byte {
		at := off
		if at < 0 {
			at += len(f[i])
		}
		change(f[i][at:])
		return f
	})
	return s.at(s.victim())
}

// forge changes the records as somebody does who has all but the key: sequences,
// hashes, headers and, unless they are to be kept, indexes are made to fit.
func (s *scene) forge(t testing.TB, keepIndexes bool, change func(records [][]byte) [][]byte) {
	t.Helper()
	var records [][]byte
	for _, first := range s.firsts {
		for _, f := range frames(s.read(t, nameOf(first))) {
			records = append(records, f[8:len(f)-32])
		}
	}
	records = change(records)
	var tree audit.Tree
	for _, first := range s.firsts {
		header := tree.Header()
		var own [][]byte
		for tree.Size()+1 < s.next(first) && tree.Size() < uint64(len(records)) || first == s.last() && tree.Size() < uint64(len(records)) {
			r := resequenced(records[tree.Size()], tree.Size()+1)
			own = append(own, r)
			tree.Add(tlog.RecordHash(r))
		}
		s.put(t, nameOf(first), rehash(header, own))
	}
	for _, first := range s.firsts[:len(s.firsts)-1] {
		if keepIndexes {
			break
		}
		if err := audit.Reindex(s.dir, first, s.next(first)); err != nil {
			t.Fatal(err)
		}
	}
}

// resequenced is a record with another sequence, which is its last field.
func resequenced(record []byte, sequence uint64) []byte {
	for n := 2; n <= 11; n++ {
		tail := record[len(record)-n:]
		if _, m := protowire.ConsumeVarint(tail[1:]); tail[0] == 0x08 && m == n-1 {
			return protowire.AppendVarint(slices.Clone(record[:len(record)-n+1]), sequence)
		}
	}
	panic("a record without a sequence")
}
