package audit_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// inCheckpoint changes the last checkpoint of the middle segment.
func (s *scene) inCheckpoint(t testing.TB, change func(note []byte) []byte) place {
	t.Helper()
	s.edit(t, besideOf(s.segment()), func(b []byte) []byte {
		notes := notesOf(b)
		n := len(notes) - 1
		notes[n] = change(slices.Clone(notes[n]))
		return bytes.Join(notes, nil)
	})
	return place{besideOf(s.segment()), s.segment(), 0}
}

// line changes a line of a checkpoint: origin, size, root, nothing, signature.
func line(n int, change func([]byte) []byte) func(*testing.T, *scene) place {
	return func(t *testing.T, s *scene) place {
		return s.inCheckpoint(t, func(note []byte) []byte {
			lines := bytes.SplitAfter(note, []byte("\n"))
			lines[n] = change(lines[n])
			return bytes.Join(lines, nil)
		})
	}
}

// otherChar replaces a character by another that may stand there.
func otherChar(at int) func([]byte) []byte {
	return func(line []byte) []byte {
		if at < 0 {
			at += len(line)
		}
		if line[at] == 'A' {
			line[at] = 'B'
		} else {
			line[at] = 'A'
		}
		return line
	}
}

// checkpointManipulations are of what is signed.
var checkpointManipulations = []manipulation{
	{name: "origin of a checkpoint", tamper: line(0, otherChar(0))},
	{name: "size of a checkpoint", tamper: line(1, func(l []byte) []byte { return append([]byte("1"), l...) })},
	{name: "root of a checkpoint", tamper: line(2, otherChar(5))},
	{name: "signature of a checkpoint", tamper: line(4, otherChar(-20))},
	{name: "name of a signature", tamper: line(4, otherChar(4))},
	{name: "not a checkpoint", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, besideOf(s.segment()), func(b []byte) []byte { return append(b, bytes.Repeat([]byte("nothing\n"), 10)...) })
		return place{besideOf(s.segment()), s.segment(), 0}
	}},
	{name: "a pipe in place of checkpoints", tamper: func(t *testing.T, s *scene) place {
		s.pipe(t, besideOf(s.segment()))
		return place{besideOf(s.segment()), s.segment(), 0}
	}},
	{name: "checkpoints exchanged", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, besideOf(1), func(b []byte) []byte {
			notes := notesOf(b)
			slices.Reverse(notes)
			return bytes.Join(notes, nil)
		})
		return place{besideOf(1), 1, 0}
	}},
	{name: "checkpoint there twice", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, besideOf(1), func(b []byte) []byte { return append(b, notesOf(b)[len(notesOf(b))-1]...) })
		return place{besideOf(1), 1, 0}
	}},
	{name: "checkpoint of another log of the same key", tamper: func(t *testing.T, s *scene) place {
		files := segmentFiles(t, s.other)
		notes := notesOf(readFile(t, s.other+"/"+besideOf(firstOf(t, files[len(files)-1]))))
		foreign := notes[len(notes)-1]
		want := s.among(t, s.records)
		s.edit(t, besideOf(s.last()), func(b []byte) []byte {
			notes := notesOf(b)
			notes[len(notes)-1] = foreign
			return bytes.Join(notes, nil)
		})
		return want
	}},
	{name: "checkpoints removed", tamper: func(t *testing.T, s *scene) place {
		if len(s.firsts) > 1 {
			// Those of a segment that others follow.
			s.drop(t, besideOf(s.segment()))
			return place{nameOf(s.segment()), s.segment(), s.next(s.segment()) - 1}
		}
		s.drop(t, besideOf(1))
		return place{besideOf(1), 1, s.records}
	}},
}

// logManipulations are of the whole log and its keys.
var logManipulations = []manipulation{
	{name: "list of keys removed", tamper: func(t *testing.T, s *scene) place {
		s.drop(t, "log.pub")
		return place{besideOf(1), 1, 0}
	}},
	{name: "list of keys replaced", tamper: func(t *testing.T, s *scene) place {
		s.put(t, "log.pub", readFile(t, s.stranger+"/log.pub"))
		return place{besideOf(1), 1, 0}
	}},
	{name: "a pipe in place of the list of keys", tamper: func(t *testing.T, s *scene) place {
		s.pipe(t, "log.pub")
		return place{"log.pub", 1, 0}
	}},
	{name: "log replaced by one of another key, and the list of keys", shows: withKey, tamper: func(t *testing.T, s *scene) place {
		s.replace(t, s.stranger)
		return place{besideOf(1), 1, 0}
	}},
	{name: "log replaced by one of the same key", shows: withCheckpoint, tamper: func(t *testing.T, s *scene) place {
		s.replace(t, s.other)
		return place{nameOf(s.last()), 1, s.records}
	}},
	{name: "log put back from an old copy", shows: withCheckpoint, tamper: func(t *testing.T, s *scene) place {
		s.replace(t, s.backup)
		return place{nameOf(s.last()), s.old + 1, 0}
	}},
}

// retentionManipulations hide what was deleted behind what looks like retention.
var retentionManipulations = []manipulation{
	{name: "first segments deleted, and a record of retention put behind the end", segments: 3, tamper: func(t *testing.T, s *scene) place {
		s.retained(t, s.segment()-1)
		s.forgeTail(t, s.segment()-1)
		return place{nameOf(1), 1, s.segment() - 1}
	}},
	{name: "first segments deleted, and a record made one of retention", segments: 3, tamper: func(t *testing.T, s *scene) place {
		removed := s.firsts[1] - 1
		s.edit(t, nameOf(s.segment()), func(b []byte) []byte {
			f := frames(b)
			records := make([][]byte, len(f))
			for i := range f {
				records[i] = f[i][8 : len(f[i])-32]
			}
			i := s.victim() - s.segment()
			records[i] = retention(t, removed, s.victim())
			return rehash(b, records)
		})
		want := s.hashed(t, s.victim())
		s.retained(t, removed)
		return want
	}},
}

// retained deletes the segments up to a record.
func (s *scene) retained(t testing.TB, through uint64) {
	t.Helper()
	for _, first := range s.firsts {
		if first <= through {
			s.drop(t, nameOf(first), besideOf(first), indexNameOf(first))
		}
	}
}

// forgeTail puts a record of retention behind the end of the log.
func (s *scene) forgeTail(t testing.TB, through uint64) {
	t.Helper()
	s.edit(t, nameOf(s.last()), func(b []byte) []byte {
		return append(b, rehash(b, [][]byte{retention(t, through, s.records+1)})[headerOf(b):]...)
	})
}

// retention is the record that retention leaves.
func retention(t testing.TB, through, sequence uint64) []byte {
	t.Helper()
	b, err := proto.Marshal(&auditv1.Record{
		Kind: auditv1.Kind_KIND_RETENTION, RemovedThrough: through, Detail: fmt.Sprintf("the records up to %d", through),
	})
	if err != nil {
		t.Fatal(err)
	}
	return protowire.AppendVarint(append(b, 0x08), sequence)
}
