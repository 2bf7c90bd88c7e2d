package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// TestFind looks for every record, in whatever state the indexes are.
func TestFind(t *testing.T) {
	const records = 20
	dir := filepath.Join(t.TempDir(), "audit")
	id := func(i int) string { return fmt.Sprintf("01JABCDEFGHJKMNPQRSTVW%04d", i) }
	l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 900})
	for i := 1; i <= records; i++ {
		if err := l.Append(t.Context(), record(id(i)), audit.Required); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, l)
	indexes, err := filepath.Glob(filepath.Join(dir, "*.index"))
	if err != nil || len(indexes) < 3 {
		t.Fatalf("indexes %v, %v", indexes, err)
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, path string, others [][]byte)
	}{
		{"whole", func(*testing.T, string, [][]byte) {}},
		{"missing", func(t *testing.T, path string, _ [][]byte) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
		{"empty", func(t *testing.T, path string, _ [][]byte) { writeFile(t, path, nil) }},
		{"cut off", func(t *testing.T, path string, _ [][]byte) {
			b := readFile(t, path)
			writeFile(t, path, b[:len(b)-1])
		}},
		{"of no version that is known", func(t *testing.T, path string, _ [][]byte) {
			b := readFile(t, path)
			b[11]++
			writeFile(t, path, b)
		}},
		{"of another segment", func(t *testing.T, path string, others [][]byte) { writeFile(t, path, others[0]) }},
	} {
		t.Run("indexes "+tt.name, func(t *testing.T) {
			dir := copyDir(t, dir)
			others := [][]byte{readFile(t, indexes[len(indexes)-1]), readFile(t, indexes[0])}
			for i, index := range indexes {
				tt.change(t, filepath.Join(dir, filepath.Base(index)), others[min(i/(len(indexes)-1), 1):])
			}
			for i := 1; i <= records; i++ {
				for _, asked := range []string{id(i), strings.ToLower(id(i))} {
					r, err := view(dir).Find(t.Context(), asked)
					if err != nil || r.GetCallId() != id(i) || r.GetSequence() != uint64(i) {
						t.Errorf("call %s: %v, %v", asked, r, err)
					}
				}
			}
			for _, asked := range []string{"", "01J", id(records + 1), "x" + id(1), strings.Repeat("x", 1<<16)} {
				if r, err := view(dir).Find(t.Context(), asked); !errors.Is(err, audit.ErrNoCall) {
					t.Errorf("call %.40q: %v, %v, want ErrNoCall", asked, r, err)
				}
			}
			// The next writer makes the indexes anew, beside its work.
			l := open(t, audit.Config{Key: key, Dir: dir})
			for _, index := range indexes {
				awaitContent(t, filepath.Join(dir, filepath.Base(index)), readFile(t, index))
			}
			closed(t, l)
			verify(t, dir)
		})
	}
}

func TestFindReturnsNothingThatWasChanged(t *testing.T) {
	dir := newLog(t, 10, 900)
	for i := 1; i <= 10; i++ {
		s := &scene{dir: copyDir(t, dir), records: 10}
		for _, file := range segmentFiles(t, dir) {
			s.firsts = append(s.firsts, firstOf(t, file))
		}
		at := s.at(uint64(i))
		s.edit(t, at.file, func(b []byte) []byte {
			f := frames(b)[uint64(i)-firstOf(t, at.file)]
			f[20] ^= 1
			return b
		})
		var tampered *audit.TamperError
		if r, err := view(s.dir).Find(t.Context(), call(i).GetCallId()); !errors.As(err, &tampered) && !errors.Is(err, audit.ErrNoCall) {
			t.Errorf("record %d: %v, %v, want a TamperError", i, r, err)
		}
		if _, err := audit.Prove(s.dir, call(i).GetCallId(), nil); err == nil {
			t.Errorf("record %d was changed and proved", i)
		}
	}
}

// awaitContent waits until a file holds what it should.
func awaitContent(t *testing.T, path string, want []byte) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		if got, err := os.ReadFile(path); err == nil && bytes.Equal(got, want) {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-timeout:
			t.Fatalf("%s is not what it should be", filepath.Base(path))
		}
	}
}
