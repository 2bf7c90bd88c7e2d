package audit_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// cutManipulations take away the end of something.
var cutManipulations = []manipulation{
	{name: "last record cut off", tamper: func(t *testing.T, s *scene) place {
		s.cutLast(t)
		return s.at(s.records)
	}},
	{name: "last record cut off, and its checkpoint", shows: withCheckpoint, tamper: func(t *testing.T, s *scene) place {
		s.cutLast(t)
		s.edit(t, besideOf(s.last()), func(b []byte) []byte {
			notes := notesOf(b)
			for len(notes) > 0 && sizeOf(t, notes[len(notes)-1]) == s.records {
				notes = notes[:len(notes)-1]
			}
			return bytes.Join(notes, nil)
		})
		return s.at(s.records)
	}},
	{name: "log cut off inside a frame", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(s.last()), func(b []byte) []byte { return b[:len(b)-10] })
		return s.at(s.records)
	}},
	{name: "log cut off behind a header", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(s.last()), func(b []byte) []byte { return b[:headerOf(b)] })
		return s.at(s.last())
	}},
	{name: "log cut off inside a header", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(s.last()), func(b []byte) []byte { return b[:headerOf(b)-1] })
		return s.at(s.last())
	}},
	{name: "earlier segment cut off between records", segments: 2, tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(1), func(b []byte) []byte {
			f := frames(b)
			return b[:len(b)-len(f[len(f)-1])]
		})
		return s.at(s.next(1) - 1)
	}},
	{name: "earlier segment cut off inside a frame", segments: 2, tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(1), func(b []byte) []byte { return b[:len(b)-10] })
		return s.at(s.next(1) - 1)
	}},
	{name: "segment emptied", tamper: func(t *testing.T, s *scene) place {
		s.put(t, nameOf(s.segment()), nil)
		return s.at(s.segment())
	}},
}

func (s *scene) cutLast(t testing.TB) {
	t.Helper()
	s.edit(t, nameOf(s.last()), func(b []byte) []byte {
		f := frames(b)
		return b[:len(b)-len(f[len(f)-1])]
	})
}

func sizeOf(t testing.TB, note []byte) uint64 {
	t.Helper()
	c, err := audit.ParseCheckpoint(note, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Size
}

// drop removes files.
func (s *scene) drop(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// segmentManipulations are of whole files.
var segmentManipulations = []manipulation{
	{name: "first segment missing", segments: 2, tamper: func(t *testing.T, s *scene) place {
		s.drop(t, nameOf(1), besideOf(1), indexNameOf(1))
		return place{nameOf(1), 1, s.next(1) - 1}
	}},
	{name: "middle segment missing", segments: 3, tamper: func(t *testing.T, s *scene) place {
		s.drop(t, nameOf(s.segment()), besideOf(s.segment()), indexNameOf(s.segment()))
		return place{s.at(s.segment() - 1).file, s.segment(), 0}
	}},
	{name: "last segment missing", tamper: func(t *testing.T, s *scene) place {
		s.drop(t, nameOf(s.last()))
		return s.at(s.last())
	}},
	{name: "last segment missing, and its checkpoints", segments: 2, shows: withCheckpoint, tamper: func(t *testing.T, s *scene) place {
		s.drop(t, nameOf(s.last()), besideOf(s.last()))
		return place{s.at(s.last() - 1).file, s.last(), 0}
	}},
	{name: "first segment renamed", tamper: func(t *testing.T, s *scene) place {
		s.rename(t, nameOf(1), nameOf(2))
		return place{nameOf(2), 2, 0}
	}},
	{name: "segment renamed", segments: 3, tamper: func(t *testing.T, s *scene) place {
		s.rename(t, nameOf(s.segment()), nameOf(s.segment()+1))
		return place{s.at(s.segment() - 1).file, s.segment(), 0}
	}},
	{name: "segment renamed to no sequence", tamper: func(t *testing.T, s *scene) place {
		s.rename(t, nameOf(s.segment()), "one.log")
		return place{"one.log", 0, 0}
	}},
	{name: "segment there twice", tamper: func(t *testing.T, s *scene) place {
		s.put(t, nameOf(s.records+1), s.read(t, nameOf(s.last())))
		return place{nameOf(s.records + 1), s.records + 1, 0}
	}},
	{name: "segments exchanged", segments: 3, tamper: func(t *testing.T, s *scene) place {
		s.rename(t, nameOf(s.segment()), "x")
		s.rename(t, nameOf(s.last()), nameOf(s.segment()))
		s.rename(t, "x", nameOf(s.last()))
		return s.at(s.segment())
	}},
	{name: "segment of another log", segments: 2, tamper: func(t *testing.T, s *scene) place {
		files := segmentFiles(t, s.other)
		s.put(t, nameOf(s.segment()), readFile(t, files[len(files)/2]))
		return s.at(s.segment())
	}},
	{name: "a directory in a segment's place", tamper: func(t *testing.T, s *scene) place {
		s.drop(t, nameOf(s.segment()))
		if err := os.Mkdir(filepath.Join(s.dir, nameOf(s.segment())), 0o700); err != nil {
			t.Fatal(err)
		}
		return s.at(s.segment())
	}},
	{name: "a link in a segment's place", tamper: func(t *testing.T, s *scene) place {
		s.rename(t, nameOf(s.segment()), "elsewhere")
		if err := os.Symlink("elsewhere", filepath.Join(s.dir, nameOf(s.segment()))); err != nil {
			t.Fatal(err)
		}
		return s.at(s.segment())
	}},
	{name: "a pipe in a segment's place", tamper: func(t *testing.T, s *scene) place {
		s.pipe(t, nameOf(s.segment()))
		return s.at(s.segment())
	}},
	{name: "byte of an index", segments: 2, tamper: func(t *testing.T, s *scene) place {
		s.edit(t, indexNameOf(1), func(b []byte) []byte {
			b[len(b)/2] ^= 1
			return b
		})
		return place{indexNameOf(1), 1, s.next(1) - 1}
	}},
	{name: "index cut off", segments: 2, tamper: func(t *testing.T, s *scene) place {
		s.edit(t, indexNameOf(1), func(b []byte) []byte { return b[:len(b)-1] })
		return place{indexNameOf(1), 1, s.next(1) - 1}
	}},
	{name: "index of another segment", segments: 3, tamper: func(t *testing.T, s *scene) place {
		s.put(t, indexNameOf(1), s.read(t, indexNameOf(s.next(1))))
		return place{indexNameOf(1), 1, s.next(1) - 1}
	}},
	{name: "a pipe in an index's place", segments: 2, tamper: func(t *testing.T, s *scene) place {
		s.pipe(t, indexNameOf(1))
		return place{indexNameOf(1), 1, s.next(1) - 1}
	}},
}

func (s *scene) pipe(t testing.TB, name string) {
	t.Helper()
	s.drop(t, name)
	if err := syscall.Mkfifo(filepath.Join(s.dir, name), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace makes the scene's log another one, all of it.
func (s *scene) replace(t testing.TB, dir string) {
	t.Helper()
	s.dir = linked(t, dir)
	s.firsts = slices.Clone(s.firsts[:0])
	for _, file := range segmentFiles(t, dir) {
		s.firsts = append(s.firsts, firstOf(t, file))
	}
}
