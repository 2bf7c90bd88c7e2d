package audit_test

import (
	"bytes"
	"errors"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// unavailable asserts that Append refuses, and says why.
func unavailable(t *testing.T, l *audit.Log, id string, why error) {
	t.Helper()
	err := l.Append(t.Context(), record(id), audit.Required)
	if !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, why) {
		t.Fatalf("Append: %v, want ErrUnavailable because of %v", err, why)
	}
}

// recovered waits until the log works again, which it has to at its next probe.
func recovered(t *testing.T, l *audit.Log) {
	t.Helper()
	time.Sleep(audit.ProbeInterval)
	synctest.Wait()
	if err := l.Err(); err != nil {
		t.Fatalf("not recovered: %v", err)
	}
}

const limitEnv = "AUDIT_TEST_FILE_LIMIT"

// TestWriteError makes writes fail for real, with a limit on the size of
// files. The limit is the process's, hence a process of its own.
func TestWriteError(t *testing.T) {
	if os.Getenv(limitEnv) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriteError$", "-test.v")
		cmd.Env = append(os.Environ(), limitEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestWriteError") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	limit := func(t *testing.T, bytes uint64) {
		t.Helper()
		var l syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
			t.Fatal(err)
		}
		l.Cur = min(bytes, l.Max)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "audit")
		l := open(t, audit.Config{Key: key, Dir: dir})
		appendCalls(t, l, 1, 3)
		size := len(readFile(t, filepath.Join(dir, firstName)))

		limit(t, uint64(size)+100)
		unavailable(t, l, "half written", syscall.EFBIG)
		if got := len(readFile(t, filepath.Join(dir, firstName))); got != size+100 {
			t.Fatalf("segment has %d bytes, want half a frame behind %d", got, size)
		}
		limit(t, 10) // no segment can be created either
		time.Sleep(3 * audit.ProbeInterval)
		if err := l.Err(); !errors.Is(err, syscall.EFBIG) {
			t.Errorf("Err while the fault lasts: %v", err)
		}
		if err := l.Enqueue(call(4)); err != nil {
			t.Errorf("Enqueue while the fault lasts: %v", err)
		}
		unavailable(t, l, "refused", syscall.EFBIG)

		limit(t, math.MaxUint64)
		recovered(t, l)
		appendCalls(t, l, 5, 6)
		if s := l.Stats(); s.Failures != 1 || s.Segments != 2 || s.Records != 6 {
			t.Errorf("stats %+v, want 1 failure, 2 segments, 6 records", s)
		}
		closed(t, l)
		if diff := cmp.Diff(calls(1, 6), callIDs(t, dir)); diff != "" {
			t.Errorf("call ids (-want +got):\n%s", diff)
		}
		if report := verify(t, dir); report.Segments != 2 || report.TornTail != 0 {
			t.Errorf("report %+v, want 2 sound segments", report)
		}
	})
}

func TestSyncError(t *testing.T) {
	for name, before := range map[string]int{"in the first commit": 0, "after some commits": 3} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")}
				var d disk
				l := open(t, cfg.WithSync(d.sync))
				appendCalls(t, l, 1, before)
				d.fail(syscall.EIO, "")
				unavailable(t, l, "written but not synced", syscall.EIO)
				d.fail(nil, "")
				recovered(t, l)
				appendCalls(t, l, before+1, before+2)
				closed(t, l)
				if diff := cmp.Diff(calls(1, before+2), callIDs(t, cfg.Dir)); diff != "" {
					t.Errorf("call ids (-want +got):\n%s", diff)
				}
				// The file whose sync failed is not written to again.
				want := []string{firstName}
				if before > 0 {
					want = append(want, "00000000000000000004.log")
				}
				var got []string
				for _, f := range segmentFiles(t, cfg.Dir) {
					got = append(got, filepath.Base(f))
				}
				if !slices.Equal(got, want) {
					t.Errorf("segments %v, want %v", got, want)
				}
				verify(t, cfg.Dir)
			})
		})
	}
}

func TestRotationFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), SegmentBytes: 1}
		var d disk
		l := open(t, cfg.WithSync(d.sync))
		appendCalls(t, l, 1, 1)
		n := 1
		for _, file := range []string{".tmp", "/audit"} { // the new segment, the directory
			d.fail(syscall.ENOSPC, file)
			unavailable(t, l, "refused", syscall.ENOSPC)
			d.fail(nil, "")
			recovered(t, l)
			n++
			appendCalls(t, l, n, n)
		}
		closed(t, l)
		if diff := cmp.Diff(calls(1, n), callIDs(t, cfg.Dir)); diff != "" {
			t.Errorf("call ids (-want +got):\n%s", diff)
		}
		if report := verify(t, cfg.Dir); report.Segments != n || l.Stats().Segments != n {
			t.Errorf("%d segments, %d in stats, want %d", report.Segments, l.Stats().Segments, n)
		}
	})
}

// A file in the next segment's place is evidence of something, not room.
func TestNextSegmentIsThereAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "audit")
		l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 100})
		appendCalls(t, l, 1, 1)
		next := filepath.Join(dir, "00000000000000000002.log")
		foreign := make([]byte, 200)
		writeFile(t, next, foreign)
		unavailable(t, l, "refused", audit.ErrUnavailable)
		time.Sleep(3 * audit.ProbeInterval)
		if got := readFile(t, next); !bytes.Equal(got, foreign) {
			t.Errorf("the file was overwritten, it has %d bytes", len(got))
		}
		if err := os.Remove(next); err != nil {
			t.Fatal(err)
		}
		recovered(t, l)
		appendCalls(t, l, 2, 2)
		closed(t, l)
		verify(t, dir)
	})
}

func TestHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), Timeout: 3 * time.Second}
		var d disk
		l := open(t, cfg.WithSync(d.sync))
		answer := d.block()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				begin := time.Now()
				if err := l.Append(t.Context(), call(i), audit.Required); !errors.Is(err, audit.ErrUnavailable) {
					t.Errorf("Append: %v, want ErrUnavailable", err)
				}
				if took := time.Since(begin); took != 3*time.Second {
					t.Errorf("refused after %v, want 3s", took)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Millisecond)
		if err := l.Err(); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Err while the disk hangs: %v", err)
		}
		begin := time.Now()
		unavailable(t, l, "not even waited for", audit.ErrUnavailable)
		if took := time.Since(begin); took != 0 {
			t.Errorf("refused after %v, want at once", took)
		}
		if err := l.Close(); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Close while the disk hangs: %v", err)
		}
		close(answer)
		closed(t, l)
		verify(t, cfg.Dir)
	})
}

// TestLostPlace is about files that go away under the log: it could write on
// into a file that nobody will ever find.
func TestLostPlace(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name          string
		lose, restore func(t *testing.T, dir, aside string)
		// kept says that what is written meanwhile is not lost, and so need not be
		// refused before the next look at the place.
		kept bool
	}{
		{
			"directory moved away and back",
			func(t *testing.T, dir, aside string) { must(t, os.Rename(dir, aside)) },
			func(t *testing.T, dir, aside string) { must(t, os.Rename(aside, dir)) },
			true,
		},
		{
			"directory deleted and restored from a copy",
			func(t *testing.T, dir, aside string) {
				must(t, os.CopyFS(aside, os.DirFS(dir)))
				must(t, os.RemoveAll(dir))
			},
			func(t *testing.T, dir, aside string) { must(t, os.Rename(aside, dir)) },
			false,
		},
		{
			"segment deleted and restored from a copy",
			func(t *testing.T, dir, aside string) {
				must(t, os.CopyFS(aside, os.DirFS(dir)))
				must(t, os.Remove(filepath.Join(dir, firstName)))
			},
			func(t *testing.T, dir, aside string) {
				must(t, os.Rename(filepath.Join(aside, firstName), filepath.Join(dir, firstName)))
			},
			false,
		},
		{
			"segment cut off and restored",
			func(t *testing.T, dir, aside string) {
				must(t, os.CopyFS(aside, os.DirFS(dir)))
				must(t, os.Truncate(filepath.Join(dir, firstName), 300))
			},
			func(t *testing.T, dir, aside string) {
				must(t, os.Rename(filepath.Join(aside, firstName), filepath.Join(dir, firstName)))
			},
			false,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := t.TempDir()
				dir, aside := filepath.Join(base, "audit"), filepath.Join(base, "aside")
				l := open(t, audit.Config{Key: key, Dir: dir})
				appendCalls(t, l, 1, 3)

				tt.lose(t, dir, aside)
				written := 3
				if tt.kept {
					written++
					appendCalls(t, l, written, written)
					time.Sleep(2 * audit.ProbeInterval)
				}
				unavailable(t, l, "refused", audit.ErrUnavailable)
				time.Sleep(3 * audit.ProbeInterval)
				if err := l.Err(); !errors.Is(err, audit.ErrUnavailable) {
					t.Errorf("Err while it is lost: %v", err)
				}
				tt.restore(t, dir, aside)
				recovered(t, l)
				appendCalls(t, l, written+1, written+2)
				if _, err := audit.Open(audit.Config{Key: key, Dir: dir}); !errors.Is(err, audit.ErrLocked) {
					t.Errorf("second Open: %v, want ErrLocked", err)
				}
				closed(t, l)
				if diff := cmp.Diff(calls(1, written+2), callIDs(t, dir)); diff != "" {
					t.Errorf("call ids (-want +got):\n%s", diff)
				}
				verify(t, dir)
			})
		})
	}
}

func TestLossIsNoticedWithoutAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "audit")
		l := open(t, audit.Config{Key: key, Dir: dir})
		if err := os.Remove(filepath.Join(dir, firstName)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(audit.ProbeInterval)
		synctest.Wait()
		if err := l.Err(); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Err: %v, want ErrUnavailable", err)
		}
	})
}

// A log whose acknowledged records were exchanged while it could not write
// must not be continued.
func TestReplacedWhileFailed(t *testing.T) {
	other := newLog(t, 3, 0)
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "audit")
		l := open(t, audit.Config{Key: key, Dir: dir})
		appendCalls(t, l, 2, 4)
		if err := os.Rename(filepath.Join(other, firstName), filepath.Join(dir, firstName)); err != nil {
			t.Fatal(err)
		}
		unavailable(t, l, "refused", audit.ErrUnavailable)
		time.Sleep(3 * audit.ProbeInterval)
		var tampered *audit.TamperError
		if err := l.Err(); !errors.As(err, &tampered) {
			t.Errorf("Err: %v, want a TamperError", err)
		}
	})
}

func TestCloseTellsWhatIsLost(t *testing.T) {
	cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")}
	var d disk
	l := open(t, cfg.WithSync(d.sync))
	appendCalls(t, l, 1, 1)
	d.fail(syscall.EIO, "")
	for i := range 3 {
		if err := l.Enqueue(call(i + 2)); err != nil {
			t.Fatal(err)
		}
	}
	err := l.Close()
	if !errors.Is(err, audit.ErrUnavailable) || !strings.Contains(err.Error(), "3 records") {
		t.Errorf("Close: %v, want ErrUnavailable and the number of records", err)
	}
}

// Records that went where nobody will look for them are lost, too, although they
// were written.
func TestCloseTellsThatThePlaceIsLost(t *testing.T) {
	for name, enqueued := range map[string]int{"something waits": 1, "nothing waits": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "audit")
				l := open(t, audit.Config{Key: key, Dir: dir})
				appendCalls(t, l, 1, 1)
				if err := os.Rename(dir, dir+"-away"); err != nil {
					t.Fatal(err)
				}
				for i := range enqueued {
					if err := l.Enqueue(call(i + 2)); err != nil {
						t.Fatal(err)
					}
				}
				if err := l.Close(); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, os.ErrNotExist) {
					t.Errorf("Close: %v", err)
				}
			})
		})
	}
}
