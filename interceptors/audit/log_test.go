package audit_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

func TestAppendIsReadBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir})
	want := call(1)
	want.Sequence = 77 // the log's word counts, not the caller's
	want.Refused = map[string]uint64{"QUOTA_ROWS": 2, "REQUEST_INVALID": 1}
	want.InputDigest = []byte{1, 2, 3}
	if err := l.Append(t.Context(), want, audit.Required); err != nil {
		t.Fatal(err)
	}
	if want.GetSequence() != 77 {
		t.Error("Append changed the caller's record")
	}
	want.Sequence = 1
	for got, err := range view(dir).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
	}
}

func TestAppendAndEnqueueKeepOneOrderOverRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	for run := range 3 {
		l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 600})
		for i := run*10 + 1; i <= run*10+10; i++ {
			var err error
			if i%3 == 0 {
				err = l.Append(t.Context(), call(i), audit.Required)
			} else {
				err = l.Enqueue(call(i))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		closed(t, l)
	}
	if diff := cmp.Diff(calls(1, 30), callIDs(t, dir)); diff != "" {
		t.Errorf("call ids (-want +got):\n%s", diff)
	}
}

func TestConcurrentAppends(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 8 << 10})
	const workers, each = 32, 25
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := record("")
			for i := range each {
				// The record is the caller's again after each Append.
				r.CallId = fmt.Sprintf("%d-%d", w, i)
				if err := l.Append(t.Context(), r, audit.Required); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stats := l.Stats()
	if stats.Records != workers*each || stats.Commits >= stats.Records {
		t.Errorf("%d records in %d commits, want %d records in fewer commits", stats.Records, stats.Commits, workers*each)
	}
	if got := len(segmentFiles(t, dir)); stats.Segments != got || got < 2 {
		t.Errorf("%d segments in stats, %d on disk, want the same and several", stats.Segments, got)
	}
	seen := make(map[string]int)
	for _, id := range callIDs(t, dir) {
		seen[id]++
	}
	if len(seen) != workers*each {
		t.Errorf("%d different records, want %d", len(seen), workers*each)
	}
	verify(t, dir)
}

func TestOneCommitForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")}
		l := open(t, cfg.WithSync(d.sync))
		release := d.block()
		var wg sync.WaitGroup
		wg.Go(func() { _ = l.Append(t.Context(), call(0), audit.Required) })
		synctest.Wait() // the first commit is at the disk
		for i := range 63 {
			wg.Go(func() {
				if err := l.Append(t.Context(), call(i+1), audit.Required); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if got := l.Stats().Queue; got != 63 {
			t.Errorf("%d records wait, want 63", got)
		}
		close(release)
		wg.Wait()
		if s := l.Stats(); s.Commits != 2 || s.Records != 64 {
			t.Errorf("%d records in %d commits, want 64 in 2", s.Records, s.Commits)
		}
		closed(t, l)
	})
}

func TestCommitIsBounded(t *testing.T) {
	// Seven records of 1 MiB each cannot be one commit of at most 4 MiB.
	synctest.Test(t, func(t *testing.T) {
		var d disk
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")}
		l := open(t, cfg.WithSync(d.sync))
		release := d.block()
		if err := l.Enqueue(call(0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it is at the disk
		big := call(1)
		big.Detail = strings.Repeat("x", audit.MaxRecord-1024)
		for range 7 {
			if err := l.Enqueue(big); err != nil {
				t.Fatal(err)
			}
		}
		close(release)
		closed(t, l)
		if s := l.Stats(); s.Records != 8 || s.Commits != 3 {
			t.Errorf("%d records in %d commits, want 8 in 3: one, four, three", s.Records, s.Commits)
		}
		verify(t, cfg.Dir)
	})
}

func TestRecordTooLarge(t *testing.T) {
	l := open(t, audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")})
	big := call(1)
	big.Detail = strings.Repeat("x", audit.MaxRecord)
	if err := l.Append(t.Context(), big, audit.Required); err == nil || errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Append of a record that is too large: %v, want an error of its own", err)
	}
	if err := l.Enqueue(big); err == nil || errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Enqueue of a record that is too large: %v, want an error of its own", err)
	}
	appendCalls(t, l, 2, 2)
}

func TestTextThatIsNotUTF8IsRecorded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir})
	r := call(1)
	r.Method = "/evil\xff\xfe/Predict"
	r.Caller.SpiffeId = "spiffe://x/\x80"
	r.Roles = []string{"ok", "\xc0"}
	given := proto.CloneOf(r)
	if err := l.Append(t.Context(), r, audit.Required); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(given, r) {
		t.Error("Append changed the caller's record")
	}
	for got, err := range view(dir).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"/evil\uFFFD/Predict", "spiffe://x/\uFFFD", "ok", "\uFFFD"}
		have := append([]string{got.GetMethod(), got.GetCaller().GetSpiffeId()}, got.GetRoles()...)
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("text (-want +got):\n%s", diff)
		}
	}
}

func TestEnqueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), Queue: 3}
		l := open(t, cfg.WithSync(d.sync))
		release := d.block()
		for i := range 3 {
			if err := l.Enqueue(call(i)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the first is at the disk, which counts as waiting
		}
		if err := l.Enqueue(call(3)); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Enqueue into a full queue: %v, want ErrUnavailable", err)
		}
		close(release)
		synctest.Wait()
		if err := l.Enqueue(call(4)); err != nil {
			t.Errorf("Enqueue into an empty queue: %v", err)
		}
		closed(t, l)
		if got := l.Stats().Records; got != 4 {
			t.Errorf("%d records, want 4", got)
		}
	})
}

func TestOneWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir})
	_, err := audit.Open(audit.Config{Key: key, Dir: dir})
	if !errors.Is(err, audit.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Open: %v, want ErrLocked and the directory", err)
	}
	closed(t, l)
	closed(t, open(t, audit.Config{Key: key, Dir: dir}))
}

func TestClosed(t *testing.T) {
	l := open(t, audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")})
	if err := l.Err(); err != nil {
		t.Errorf("Err of an open log: %v", err)
	}
	closed(t, l)
	for name, err := range map[string]error{
		"Append":  l.Append(t.Context(), call(1), audit.Required),
		"Enqueue": l.Enqueue(call(1)),
		"Err":     l.Err(),
	} {
		if !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("%s after Close: %v, want ErrUnavailable", name, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestModes(t *testing.T) {
	dir := newLog(t, 1, 0)
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, firstName): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s is %#o, want %#o", path, got, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o770); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, nil)
	for name, tt := range map[string]struct {
		cfg  audit.Config
		want string
	}{
		"no directory":          {audit.Config{}, "no directory"},
		"others may write":      {audit.Config{Key: key, Dir: shared}, "others may write"},
		"a file":                {audit.Config{Key: key, Dir: file}, "not a directory"},
		"negative queue":        {audit.Config{Key: key, Dir: t.TempDir(), Queue: -1}, "negative"},
		"negative timeout":      {audit.Config{Key: key, Dir: t.TempDir(), Timeout: -1}, "negative"},
		"negative segment size": {audit.Config{Key: key, Dir: t.TempDir(), SegmentBytes: -1}, "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := audit.Open(tt.cfg)
			if err == nil {
				closed(t, l)
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
		})
	}
}

func TestEmptyRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir})
	if err := l.Append(t.Context(), new(auditv1.Record), audit.Required); err != nil {
		t.Fatal(err)
	}
	if got := verify(t, dir).Records; got != 1 {
		t.Errorf("%d records, want 1", got)
	}
}
