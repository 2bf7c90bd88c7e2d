package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// reopen opens a damaged log, appends one more record and returns what was
// repaired and the call ids before that record.
func reopen(t *testing.T, dir string) (*audit.Repair, []string) {
	t.Helper()
	l := open(t, audit.Config{Key: key, Dir: dir})
	if err := l.Append(t.Context(), record("after"), audit.Required); err != nil {
		t.Fatal(err)
	}
	closed(t, l)
	if report := verify(t, dir); report.TornTail != 0 {
		t.Errorf("torn tail of %d bytes after the repair", report.TornTail)
	}
	ids := callIDs(t, dir)
	if last := ids[len(ids)-1]; last != "after" {
		t.Errorf("last record is %q", last)
	}
	return l.Repaired(), ids[:len(ids)-1]
}

func TestCutAtEveryByte(t *testing.T) {
	dir := newLog(t, 4, 0)
	crash(t, dir)
	path := filepath.Join(dir, firstName)
	whole := readFile(t, path)
	all := frames(whole)
	sound := len(whole) - len(all[3]) - len(all[2])
	for size := sound; size <= len(whole); size++ {
		kept, end := 2, sound
		for _, f := range all[2:] {
			if end+len(f) <= size {
				kept, end = kept+1, end+len(f)
			}
		}
		dir := copyDir(t, dir)
		path := filepath.Join(dir, firstName)
		writeFile(t, path, whole[:size])

		report, err := audit.Verify(dir, audit.VerifyConfig{})
		if err != nil || report.TornTail != int64(size-end) || report.Records != uint64(kept) {
			t.Fatalf("cut at %d: Verify reports %d records, torn tail %d, error %v; want %d and %d",
				size, report.Records, report.TornTail, err, kept, size-end)
		}
		if got := callIDs(t, dir); !slices.Equal(got, calls(1, kept)) {
			t.Fatalf("cut at %d: Records yields %v", size, got)
		}
		repair, ids := reopen(t, dir)
		if !slices.Equal(ids, calls(1, kept)) {
			t.Fatalf("cut at %d: kept %v, want %d records", size, ids, kept)
		}
		if size == end {
			if repair != nil {
				t.Fatalf("cut at %d, between two frames: repaired %+v", size, repair)
			}
			continue
		}
		want := &audit.Repair{File: path, Offset: int64(end), Bytes: int64(size - end), Saved: repair.Saved}
		if diff := cmp.Diff(want, repair); diff != "" {
			t.Fatalf("cut at %d: repair (-want +got):\n%s", size, diff)
		}
		if saved := readFile(t, repair.Saved); !bytes.Equal(saved, whole[end:size]) {
			t.Fatalf("cut at %d: saved %d bytes that are not the torn tail", size, len(saved))
		}
	}
}

// zeroed returns b with zeros from from to to.
func zeroed(b []byte, from, to int) []byte {
	b = bytes.Clone(b)
	clear(b[from:to])
	return b
}

// TestLostSectors is about what a power cut leaves: sectors that were not
// written, and read as zeros.
func TestLostSectors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir})
	appendCalls(t, l, 1, 2)
	long := call(3)
	long.Detail = strings.Repeat("detail ", 400)
	if err := l.Append(t.Context(), long, audit.Required); err != nil {
		t.Fatal(err)
	}
	appendCalls(t, l, 4, 4)
	closed(t, l)
	crash(t, dir)
	whole := readFile(t, filepath.Join(dir, firstName))
	all := frames(whole)
	third := headerSize + len(all[0]) + len(all[1])
	fourth := third + len(all[2])
	sector := func(off int) int { return (off + 511) / 512 * 512 }
	tests := []struct {
		name    string
		segment []byte
		kept    int // -1: not torn, to be refused
	}{
		{"the file grew, nothing was written", append(bytes.Clone(whole), make([]byte, 4096)...), 4},
		{"the file grew by less than a sector", append(bytes.Clone(whole), make([]byte, 40)...), 4},
		{"first sector of a frame", zeroed(whole, third, sector(third)), 2},
		{"a sector inside a frame, the next frame intact", zeroed(whole, sector(third), sector(third)+512), 2},
		{"several sectors", zeroed(whole, sector(third), sector(third)+1536), 2},
		{"from a sector inside a frame to the end", zeroed(whole, sector(third), len(whole)), 2},
		{"all of the last frame", zeroed(whole, fourth, len(whole)), 3},
		{"a frame in front of the lost sector is damaged", func() []byte {
			b := zeroed(whole, sector(third), sector(third)+512)
			b[headerSize+len(all[0])+20] ^= 1
			return b
		}(), -1},
		{"zeros that do not begin with a sector", zeroed(whole, sector(third)+1, sector(third)+512), -1},
		{"zeros that do not end with a sector", zeroed(whole, sector(third), sector(third)+511), -1},
		{"more zeros than a commit writes", append(bytes.Clone(whole), make([]byte, audit.MaxCommit+1)...), -1},
		{"a few zeros, which no frame begins with", append(bytes.Clone(whole), make([]byte, 31)...), -1},
		{"bytes that are no frame", append(bytes.Clone(whole), strings.Repeat("x", 100)...), -1},
		{"one byte of the last record", func() []byte {
			b := bytes.Clone(whole)
			b[fourth+20] ^= 1
			return b
		}(), -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyDir(t, dir)
			writeFile(t, filepath.Join(dir, firstName), tt.segment)
			if tt.kept < 0 {
				refused(t, dir)
				return
			}
			repair, ids := reopen(t, dir)
			if repair == nil || !slices.Equal(ids, calls(1, tt.kept)) {
				t.Errorf("repaired %+v and kept %v, want %d records", repair, ids, tt.kept)
			}
		})
	}
}

// refused asserts that Verify and Open name the damage and change nothing.
func refused(t *testing.T, dir string) {
	t.Helper()
	before := contents(t, dir)
	_, err := audit.Verify(dir, audit.VerifyConfig{})
	var tampered *audit.TamperError
	if !errors.As(err, &tampered) {
		t.Fatalf("Verify: %v, want a TamperError", err)
	}
	l, err := audit.Open(audit.Config{Key: key, Dir: dir})
	if err == nil {
		closed(t, l)
		t.Fatal("Open accepted the log")
	}
	var refusal *audit.TamperError
	if !errors.As(err, &refusal) {
		t.Fatalf("Open: %v, want a TamperError", err)
	}
	if diff := cmp.Diff(tampered, refusal); diff != "" {
		t.Errorf("Verify and Open differ (-Verify +Open):\n%s", diff)
	}
	for _, want := range []string{refusal.File, fmt.Sprint(refusal.Offset), fmt.Sprint(refusal.Sequence), "nothing was changed"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
		t.Errorf("Open changed the directory (-before +after):\n%s", diff)
	}
}

// A killed process may leave whole records that no sync has confirmed. They
// are part of the log again only once they are on disk.
func TestOpenSyncsWhatItFinds(t *testing.T) {
	cfg := audit.Config{Key: key, Dir: newLog(t, 3, 0)}
	var d disk
	d.fail(syscall.EIO, ".log")
	if _, err := audit.Open(cfg.WithSync(d.sync)); !errors.Is(err, syscall.EIO) {
		t.Errorf("Open: %v, want EIO", err)
	}
	closed(t, open(t, cfg)) // and it did not stay locked
}

// A crash while a segment is created leaves a file without its name.
func TestUnfinishedSegment(t *testing.T) {
	dir := newLog(t, 3, 0)
	unfinished := filepath.Join(dir, "00000000000000000004.log.tmp")
	writeFile(t, unfinished, []byte("SALLY"))
	if _, ids := reopen(t, dir); !slices.Equal(ids, calls(1, 3)) {
		t.Errorf("kept %v", ids)
	}
	if _, err := os.Stat(unfinished); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished segment is still there: %v", err)
	}
}

// A crash right after a rotation leaves a segment without records.
func TestEmptyLastSegment(t *testing.T) {
	dir := newLog(t, 2, 1)
	files := segmentFiles(t, dir)
	last := files[len(files)-1]
	crash(t, dir)
	writeFile(t, last, readFile(t, last)[:headerOf(readFile(t, last))])
	if _, ids := reopen(t, dir); !slices.Equal(ids, calls(1, 1)) {
		t.Errorf("kept %v", ids)
	}
}
