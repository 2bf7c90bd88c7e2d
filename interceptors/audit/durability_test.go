package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func appendAs(t testing.TB, l *audit.Log, i int, durability audit.Durability) {
	t.Helper()
	if err := l.Append(t.Context(), call(i), durability); err != nil {
		t.Fatal(err)
	}
}

func TestWrittenDoesNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")}
		l := open(t, cfg.WithSync(d.sync))
		release := d.block()
		begin := time.Now()
		for i := 1; i <= 3; i++ {
			appendAs(t, l, i, audit.Written)
		}
		if took := time.Since(begin); took != 0 || l.Stats().Records != 0 {
			t.Errorf("acknowledged after %v with %d records on disk, want at once and none", took, l.Stats().Records)
		}
		// With the operating system they are, so that another process sees them.
		if diff := cmp.Diff(calls(1, 3), callIDs(t, cfg.Dir)); diff != "" {
			t.Errorf("call ids (-want +got):\n%s", diff)
		}
		close(release)
		time.Sleep(audit.FlushInterval)
		synctest.Wait()
		if s := l.Stats(); s.Records != 3 || s.Commits != 1 {
			t.Errorf("%d records on disk in %d commits, want 3 in one", s.Records, s.Commits)
		}
		closed(t, l)
	})
}

// What nobody waits for any more is written again after the disk has lost it.
func TestAcknowledgedIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")}
		l := open(t, cfg.WithSync(d.sync))
		appendAs(t, l, 1, audit.Required)
		d.fail(syscall.EIO, "")
		appendAs(t, l, 2, audit.Written)
		appendAs(t, l, 3, audit.Written)
		appendAs(t, l, 4, audit.Async)
		synctest.Wait() // they were written, and the disk has lost them
		if err := l.Append(t.Context(), record("refused"), audit.Required); !errors.Is(err, syscall.EIO) {
			t.Fatalf("Append: %v, want EIO", err)
		}
		for _, durability := range []audit.Durability{audit.Required, audit.Written, audit.Async} {
			if err := l.Append(t.Context(), record("refused"), durability); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("Append with durability %d: %v, want ErrUnavailable", durability, err)
			}
		}
		if err := l.Enqueue(call(5)); err != nil {
			t.Errorf("Enqueue: %v", err)
		}
		time.Sleep(3 * audit.ProbeInterval)
		d.fail(nil, "")
		recovered(t, l)
		appendAs(t, l, 6, audit.Required)
		closed(t, l)
		if diff := cmp.Diff(calls(1, 6), callIDs(t, cfg.Dir)); diff != "" {
			t.Errorf("call ids (-want +got):\n%s", diff)
		}
		verify(t, cfg.Dir)
	})
}

func TestWrittenIsRefusedWhileTheDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), Timeout: time.Second}
		l := open(t, cfg.WithSync(d.sync))
		release := d.block()
		appendAs(t, l, 1, audit.Written)
		time.Sleep(audit.FlushInterval + time.Millisecond) // the committer is at the disk
		if err := l.Append(t.Context(), call(2), audit.Written); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Append: %v, want ErrUnavailable", err)
		}
		if err := l.Err(); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Err: %v, want ErrUnavailable", err)
		}
		close(release)
		synctest.Wait()
		appendAs(t, l, 3, audit.Written)
		closed(t, l)
		// The second was refused after a timeout, and may be there.
		if diff := cmp.Diff(calls(1, 3), callIDs(t, cfg.Dir)); diff != "" {
			t.Errorf("call ids (-want +got):\n%s", diff)
		}
	})
}

func TestSlowDiskSlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), Timeout: time.Second}
		const slow = 900 * time.Millisecond
		l := open(t, cfg.WithSync(func(f *os.File) error {
			time.Sleep(slow)
			return f.Sync()
		}))
		for i := range 5 {
			begin := time.Now()
			appendAs(t, l, i, audit.Required)
			if took := time.Since(begin); took != slow || l.Err() != nil {
				t.Errorf("took %v, Err: %v", took, l.Err())
			}
		}
		// Close waits for the record's, the checkpoint's and no other.
		if err := l.Close(); err != nil && !errors.Is(err, audit.ErrUnavailable) {
			t.Error(err)
		}
		if l.Stats().Failures != 0 {
			t.Errorf("%d failures", l.Stats().Failures)
		}
		time.Sleep(time.Minute)
	})
}

// The queue is bounded through a failure, and what it took is written.
func TestAsyncIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), Queue: 10}
		l := open(t, cfg.WithSync(d.sync))
		release := d.block()
		taken := 0
		for i := range 25 {
			switch err := l.Append(t.Context(), call(i+1), audit.Async); {
			case err == nil:
				taken++
			case !errors.Is(err, audit.ErrUnavailable):
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if taken != 10 {
			t.Errorf("%d records were taken, want 10", taken)
		}
		d.fail(syscall.EIO, "")
		close(release)
		synctest.Wait()
		d.fail(nil, "")
		recovered(t, l)
		appendAs(t, l, 11, audit.Async)
		closed(t, l)
		if diff := cmp.Diff(calls(1, 11), callIDs(t, cfg.Dir)); diff != "" {
			t.Errorf("call ids (-want +got):\n%s", diff)
		}
	})
}
