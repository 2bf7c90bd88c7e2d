package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// A log that does not hold what a checkpoint from elsewhere covers is not opened, so
// that no start signs an older copy, one that was cut off at a checkpoint, or another.
func TestHeldCheckpoint(t *testing.T) {
	dir := newLog(t, 9, 500)
	older := copyDir(t, dir)
	l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 500})
	appendCalls(t, l, 10, 20)
	closed(t, l)
	held := verify(t, dir).Checkpoint.Note
	early := verify(t, older).Checkpoint.Note
	other := filepath.Join(t.TempDir(), "audit")
	l = open(t, audit.Config{Key: key, Dir: other, SegmentBytes: 500})
	appendCalls(t, l, 101, 130)
	closed(t, l)
	empty := t.TempDir()
	for name, tt := range map[string]struct {
		dir    string
		held   []byte
		opened bool
	}{
		"the log":                          {dir, held, true},
		"an earlier checkpoint of it":      {dir, early, true},
		"an older copy":                    {older, held, false},
		"another log of the same key":      {other, held, false},
		"no log at all":                    {empty, held, false},
		"no log, and nothing was recorded": {t.TempDir(), verify(t, newLog(t, 0, 0)).Checkpoint.Note, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, tt.dir)
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			before := contents(t, dir)
			l, err := audit.Open(audit.Config{Key: key, Dir: dir, Held: tt.held})
			if err == nil {
				closed(t, l)
			}
			var tampered *audit.TamperError
			if tt.opened != (err == nil) || err != nil && !errors.As(err, &tampered) {
				t.Fatalf("Open: %v, want it opened: %v", err, tt.opened)
			}
			if !tt.opened && len(before) != len(contents(t, dir)) {
				t.Error("Open changed the directory")
			}
		})
	}
	if _, err := audit.Open(audit.Config{Key: key, Dir: copyDir(t, dir), Held: []byte("nonsense")}); err == nil {
		t.Error("a checkpoint that is none was accepted")
	}
}

// A key that was changed is told; a signature that is not genuine is refused.
func TestKeyOfTheLastCheckpoint(t *testing.T) {
	dir := newLog(t, 3, 0)
	l := open(t, audit.Config{Key: key, Dir: dir})
	if l.KeyChanged() {
		t.Error("the same key was told to be another")
	}
	closed(t, l)
	other, _ := newKey()
	l = open(t, audit.Config{Key: other, Dir: copyDir(t, dir)})
	if !l.KeyChanged() {
		t.Error("another key was not told")
	}
	closed(t, l)

	path := filepath.Join(dir, besideOf(1))
	b := readFile(t, path)
	if at := len(b) - 8; b[at] == 'B' { // another digit of Base64
		b[at] = 'C'
	} else {
		b[at] = 'B'
	}
	writeFile(t, path, b)
	var tampered *audit.TamperError
	if l, err := audit.Open(audit.Config{Key: key, Dir: dir}); !errors.As(err, &tampered) {
		if err == nil {
			closed(t, l)
		}
		t.Errorf("Open: %v, want a TamperError", err)
	}
}
