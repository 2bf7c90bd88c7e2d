package audit_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// A crash may leave any beginning of a checkpoint in its file, and none of it.
func TestCheckpointIsCutOff(t *testing.T) {
	dir := newLog(t, 3, 0)
	whole := readFile(t, filepath.Join(dir, besideOf(1)))
	notes := notesOf(whole)
	if len(notes) != 2 {
		t.Fatalf("%d checkpoints, want that of nothing and that of three records", len(notes))
	}
	for size := range whole {
		dir := copyDir(t, dir)
		writeFile(t, filepath.Join(dir, besideOf(1)), whole[:size])
		report, err := audit.Verify(dir, audit.VerifyConfig{})
		// Nothing is signed only if not even the first is whole.
		if (err == nil) != (size >= len(notes[0])) || err == nil && report.Uncovered() != 3 {
			t.Fatalf("cut off at %d of %d: %+v, %v", size, len(whole), report, err)
		}
		if size < len(notes[0]) {
			// No crash leaves that, since there were no records yet when it was made.
			var tampered *audit.TamperError
			if _, err := audit.Open(audit.Config{Key: key, Dir: dir}); !errors.As(err, &tampered) {
				t.Fatalf("cut off at %d: Open: %v, want a TamperError", size, err)
			}
			continue
		}
		l := open(t, audit.Config{Key: key, Dir: dir})
		appendCalls(t, l, 4, 4)
		closed(t, l)
		report = verify(t, dir)
		if report.Uncovered() != 0 || report.Records != 4 {
			t.Fatalf("cut off at %d, then opened: %+v", size, report)
		}
		// What is left was put behind whole ones, and is no more.
		if got := readFile(t, filepath.Join(dir, besideOf(1))); !bytes.Equal(bytes.Join(notesOf(got), nil), got) {
			t.Fatalf("cut off at %d: something else is among the checkpoints", size)
		}
	}
}

// A checkpoint never goes beyond what is on disk.
func TestCheckpointIsOfWhatIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var sizes []uint64
		cfg := audit.Config{
			Key: key, Dir: filepath.Join(t.TempDir(), "audit"), CheckpointInterval: 100 * time.Millisecond,
			Checkpointed: func(c audit.Checkpoint) { sizes = append(sizes, c.Size) },
		}
		l := open(t, cfg.WithSync(d.sync))
		appendAs(t, l, 1, audit.Required)
		time.Sleep(time.Second)
		release := d.block()
		appendAs(t, l, 2, audit.Written)
		appendAs(t, l, 3, audit.Async)
		time.Sleep(time.Second)
		if got := l.Stats().Checkpoint; got != 1 {
			t.Errorf("a checkpoint of %d records, but only one is on disk", got)
		}
		close(release)
		time.Sleep(time.Second)
		if got := l.Stats().Checkpoint; got != 3 {
			t.Errorf("a checkpoint of %d records, want 3", got)
		}
		closed(t, l)
		if want := []uint64{0, 1, 3}; !slices.Equal(sizes, want) {
			t.Errorf("checkpoints of %v, want %v", sizes, want)
		}
	})
}

// A key that is replaced leaves what it signed verifiable.
func TestKeyIsReplaced(t *testing.T) {
	dir := newLog(t, 3, 0)
	private, next, err := audit.GenerateKey("sallyport.test/audit")
	if err != nil {
		t.Fatal(err)
	}
	successor, err := audit.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, audit.Config{Key: successor, Dir: dir})
	appendCalls(t, l, 4, 5)
	closed(t, l)
	if report := verify(t, dir); len(report.Keys) != 2 || report.Uncovered() != 0 {
		t.Errorf("%+v, want two keys", report)
	}
	for name, keys := range map[string][]string{"the old one": {public}, "the new one": {next}} {
		var tampered *audit.TamperError
		if _, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: keys}); !errors.As(err, &tampered) {
			t.Errorf("with %s only: %v, want a TamperError", name, err)
		}
	}
	if _, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: []string{next, public}}); err != nil {
		t.Error(err)
	}
}
