package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// soon runs what must not be waited for.
func soon(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

// Whoever may write to the directory can put anything into it. Nobody who reads it
// hangs, or needs as much memory as a file claims to be long.
func TestHostileDirectory(t *testing.T) {
	const records = 12
	pristine := newLog(t, records, 600)
	names := segmentFiles(t, pristine)
	first, last := filepath.Base(names[0]), filepath.Base(names[len(names)-1])
	beside := strings.TrimSuffix(first, ".log") + ".checkpoints"
	index := strings.TrimSuffix(first, ".log") + ".index"
	replace := func(name string, by func(path string) error) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.RemoveAll(path), by(path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	pipe := func(path string) error { return syscall.Mkfifo(path, 0o600) }
	endless := func(path string) error { return os.Symlink("/dev/zero", path) }
	directory := func(path string) error { return os.Mkdir(path, 0o700) }
	huge := func(path string) error {
		f, err := os.Create(path)
		return errors.Join(err, f.Truncate(1<<40), f.Close())
	}
	grown := func(path string) error {
		if err := os.WriteFile(path, readFile(t, filepath.Join(pristine, filepath.Base(path))), 0o600); err != nil {
			return err
		}
		return os.Truncate(path, 1<<40)
	}
	for _, kind := range []struct {
		name string
		by   func(string) error
	}{{"a pipe", pipe}, {"an endless device", endless}, {"a directory", directory}, {"zeros without end", huge}, {"zeros behind it", grown}} {
		for _, name := range []string{first, last, beside, index, "log.pub"} {
			t.Run(kind.name+" in place of "+name, func(t *testing.T) {
				dir := copyDir(t, pristine)
				replace(name, kind.by)(t, dir)
				soon(t, "Verify", func() {
					if _, err := audit.Verify(dir, audit.VerifyConfig{}); err == nil {
						t.Error("Verify saw nothing")
					}
				})
				soon(t, "Records", func() {
					for _, err := range view(dir).Records(t.Context(), 0) {
						if err != nil {
							return
						}
					}
				})
				soon(t, "Find", func() {
					for _, id := range []string{call(1).GetCallId(), call(records).GetCallId(), "unknown"} {
						if r, err := view(dir).Find(t.Context(), id); err == nil && r.GetCallId() != id {
							t.Errorf("Find returns call %q instead of %q", r.GetCallId(), id)
						}
					}
				})
				soon(t, "Prove", func() {
					if p, err := audit.Prove(dir, call(1).GetCallId(), nil); err == nil {
						if _, err := audit.CheckProof(p, verifiers(t), nil); err != nil {
							t.Errorf("Prove made a proof that does not hold: %v", err)
						}
					}
				})
				soon(t, "Open", func() {
					if l, err := audit.Open(audit.Config{Key: key, Dir: dir}); err == nil {
						closed(t, l)
					}
				})
			})
		}
	}
}

// A checkpoint from elsewhere that nobody signed must not be believed when it says
// how much memory it takes.
func TestProveWithAHugeCheckpoint(t *testing.T) {
	dir := newLog(t, 3, 0)
	for _, size := range []string{"4", "4611686018427387904", "9223372036854775807", "9223372036854775808", "18446744073709551615"} {
		c := "sallyport.test/audit\n" + size + "\n" + strings.Repeat("A", 43) + "=\n\n— sallyport.test/audit AAAA\n"
		if _, err := audit.Prove(dir, call(2).GetCallId(), []byte(c)); err == nil {
			t.Errorf("a checkpoint of %s records: a proof was made", size)
		}
	}
}

// What cannot be read may be what is looked for.
func TestFindSaysWhatItCannotRead(t *testing.T) {
	dir := newLog(t, 5, 0)
	path := filepath.Join(dir, firstName)
	b := readFile(t, path)
	at := headerSize + len(frames(b)[0]) + 3 // the length of the second frame
	b[at] ^= 1
	writeFile(t, path, b)
	if r, err := view(dir).Find(t.Context(), call(1).GetCallId()); err != nil || r.GetSequence() != 1 {
		t.Errorf("before the damage: %v, %v", r, err)
	}
	var tampered *audit.TamperError
	if _, err := view(dir).Find(t.Context(), call(4).GetCallId()); !errors.As(err, &tampered) || errors.Is(err, audit.ErrNoCall) {
		t.Errorf("behind the damage: %v, want a TamperError", err)
	}
	// A torn tail hides nothing that was acknowledged.
	b[at] ^= 1
	writeFile(t, path, b[:len(b)-10])
	if _, err := view(dir).Find(t.Context(), "none"); !errors.Is(err, audit.ErrNoCall) {
		t.Errorf("before a torn tail: %v, want ErrNoCall", err)
	}
}
