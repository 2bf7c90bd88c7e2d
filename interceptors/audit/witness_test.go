package audit_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func newWitness(t *testing.T, cfg audit.WitnessConfig) *audit.Witness {
	t.Helper()
	w, err := audit.NewWitness(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// awaitStats waits until a witness has tried so often.
func awaitStats(t *testing.T, w *audit.Witness, tries uint64) audit.WitnessStats {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		if s := w.Stats(); s.Sent+s.Failed >= tries {
			return s
		}
		select {
		case <-time.After(time.Millisecond):
		case <-timeout:
			t.Fatalf("%+v, want %d tries", w.Stats(), tries)
		}
	}
}

// A log whose checkpoints a witness has keeps nothing back, and cannot be cut off.
func TestWitnessDirectory(t *testing.T) {
	kept, dir := t.TempDir(), filepath.Join(t.TempDir(), "audit")
	w := newWitness(t, audit.WitnessConfig{Directory: kept, Interval: time.Hour})
	l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 900, Checkpointed: w.Checkpointed})
	awaitStats(t, w, 1) // of the empty log
	appendCalls(t, l, 1, 10)
	closed(t, l)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	checkpoints, err := audit.Witnessed(kept)
	if err != nil || len(checkpoints) != 2 {
		t.Fatalf("%d checkpoints, %v; want the first, and the last in spite of the interval", len(checkpoints), err)
	}
	report, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: []string{public}, Checkpoints: checkpoints})
	if err != nil || report.Given != 2 || report.Checkpoint.Size != 10 || !bytes.Equal(report.Checkpoint.Note, checkpoints[1]) {
		t.Errorf("%+v, %v", report, err)
	}
	// A file that is there is never changed, nor is it an error.
	for _, file := range []string{"*.checkpoint", ".checkpoint-*"} {
		files, err := filepath.Glob(filepath.Join(kept, file))
		if err != nil || len(files) != len(checkpoints) && file[0] == '*' || len(files) != 0 && file[0] == '.' {
			t.Errorf("%s: %v, %v", file, files, err)
		}
	}
	w = newWitness(t, audit.WitnessConfig{Directory: kept})
	w.Checkpointed(report.Checkpoint)
	if err := w.Close(); err != nil || w.Stats().Sent != 1 {
		t.Errorf("the same again: %+v, %v", w.Stats(), err)
	}
}

func TestWitnessFails(t *testing.T) {
	c := verify(t, newLog(t, 1, 0)).Checkpoint
	gone := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		cfg  audit.WitnessConfig
		want string // in the error; none if it is empty
	}{
		{"command takes it", audit.WitnessConfig{Command: []string{"sh", "-c", "grep -q sallyport.test/audit"}}, ""},
		{"command fails", audit.WitnessConfig{Command: []string{"sh", "-c", "echo no room >&2; exit 3"}}, "exit status 3: no room"},
		{"command reads nothing", audit.WitnessConfig{Command: []string{"true"}}, ""},
		{"command hangs", audit.WitnessConfig{Command: []string{"sleep", "1000"}, Timeout: 50 * time.Millisecond}, "no end within 50ms"},
		{"command leaves something behind", audit.WitnessConfig{Command: []string{"sh", "-c", "sleep 3 & echo $! >&2; exit 1"}}, "exit status 1"},
		{"directory is gone", audit.WitnessConfig{Directory: gone}, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWitness(t, tt.cfg)
			if tt.cfg.Directory == gone {
				if err := os.Remove(gone); err != nil {
					t.Fatal(err)
				}
			}
			w.Checkpointed(c)
			s := awaitStats(t, w, 1)
			err := w.Close()
			if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) || (s.Sent == 1) != (tt.want == "") {
				t.Errorf("%+v, %v, want %q", s, err, tt.want)
			}
		})
	}
}

// A command that writes without end does not fill the server's memory.
func TestWitnessCommandWritesMuch(t *testing.T) {
	c := verify(t, newLog(t, 1, 0)).Checkpoint
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w := newWitness(t, audit.WitnessConfig{Command: []string{"sh", "-c", "head -c 300000000 /dev/zero | tr '\\0' x; exit 1"}, Timeout: time.Minute})
	w.Checkpointed(c)
	s := awaitStats(t, w, 1)
	if err := w.Close(); err == nil || len(err.Error()) > 1000 {
		t.Errorf("%.100v", err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 50<<20 || s.Failed != 1 {
		t.Errorf("%+v, %d MiB allocated", s, grown>>20)
	}
}

func TestWitnessInterval(t *testing.T) {
	kept := t.TempDir()
	w := newWitness(t, audit.WitnessConfig{Directory: kept, Interval: time.Hour})
	l := open(t, audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), SegmentBytes: 1, Checkpointed: w.Checkpointed})
	awaitStats(t, w, 1)
	appendCalls(t, l, 1, 5) // a checkpoint each
	if s := w.Stats(); s.Sent != 1 {
		t.Errorf("%d were sent, want one in an hour", s.Sent)
	}
	closed(t, l)
	if err := w.Close(); err != nil || w.Stats().Sent != 2 {
		t.Errorf("%+v, %v, want the last one too", w.Stats(), err)
	}
}

func TestWitnessIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, nil)
	for name, cfg := range map[string]audit.WitnessConfig{
		"nothing":                {},
		"no directory":           {Directory: filepath.Join(t.TempDir(), "none")},
		"a file as a directory":  {Directory: file},
		"a command that is none": {Command: []string{"no-such-command-anywhere"}},
	} {
		if w, err := audit.NewWitness(cfg); err == nil {
			_ = w.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}
