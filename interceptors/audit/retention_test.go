package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// retained runs a log of so many calls, a second apart, with retention, and returns
// it at rest with all of its checkpoints.
func retained(t *testing.T, n int, retention audit.Retention) (dir string, checkpoints [][]byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{
		Key: key, Dir: dir, SegmentBytes: 700, Retention: retention,
		Checkpointed: func(c audit.Checkpoint) { checkpoints = append(checkpoints, c.Note) },
	})
	for i := 1; i <= n; i++ {
		r := call(i)
		r.Time.Seconds = time.Now().Unix()
		if err := l.Append(t.Context(), r, audit.Required); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
	time.Sleep(audit.RetainInterval)
	synctest.Wait()
	if got, want := l.Stats().Segments, len(segmentFiles(t, dir)); got != want {
		t.Errorf("%d segments in stats, %d on disk", got, want)
	}
	closed(t, l)
	return dir, checkpoints
}

func TestRetention(t *testing.T) {
	for _, tt := range []struct {
		name      string
		retention audit.Retention
		check     func(t *testing.T, dir string, report audit.Report)
	}{
		{"none", audit.Retention{}, func(t *testing.T, _ string, report audit.Report) {
			if report.Removed != 0 {
				t.Errorf("%d records were deleted", report.Removed)
			}
		}},
		{"by age", audit.Retention{MaxAge: 15 * time.Second}, func(t *testing.T, dir string, report audit.Report) {
			// It looked last after 50 s, when 35 calls were older. A whole segment is as old
			// as its last record; among them are the records of earlier looks.
			if report.Removed < 30 || report.Removed > 39 {
				t.Errorf("%d records were deleted, want some 35, in whole segments", report.Removed)
			}
		}},
		{"by bytes", audit.Retention{MaxBytes: 3000}, func(t *testing.T, _ string, report audit.Report) {
			if report.Removed == 0 || report.Bytes > 3000+2*800 {
				t.Errorf("%d records were deleted, %d bytes are left, want 3000 and little more", report.Removed, report.Bytes)
			}
		}},
		{"of everything", audit.Retention{MaxAge: time.Nanosecond, MaxBytes: 1}, func(t *testing.T, _ string, report audit.Report) {
			if report.Segments != 1 || report.Records == report.Removed {
				t.Errorf("%+v, want the last segment", report)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, checkpoints := retained(t, 40, tt.retention)
				report, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: []string{public}, Checkpoints: checkpoints})
				if err != nil {
					t.Fatal(err)
				}
				tt.check(t, dir, report)
				// What is left can be found and proved, what is gone is no more.
				for r, err := range view(dir).Records(t.Context(), 0) {
					if err != nil {
						t.Fatal(err)
					}
					if r.GetKind() != auditv1.Kind_KIND_CALL {
						continue
					}
					if _, err := audit.CheckProof(prove(t, dir, r.GetCallId(), nil), verifiers(t), nil); err != nil {
						t.Errorf("record %d: %v", r.GetSequence(), err)
					}
				}
				if _, err := view(dir).Find(t.Context(), call(1).GetCallId()); report.Removed > 0 && !errors.Is(err, audit.ErrNoCall) {
					t.Errorf("Find of a record that was deleted: %v", err)
				}
				// Nothing is left beside what was deleted.
				entries, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				oldest := strings.TrimSuffix(filepath.Base(segmentFiles(t, dir)[0]), ".log")
				for _, e := range entries {
					if stem, _, _ := strings.Cut(e.Name(), "."); len(stem) == 20 && stem < oldest {
						t.Errorf("%s is still there", e.Name())
					}
				}
			})
		})
	}
}

// TestRetentionIsInterrupted dies at every step between the record of a retention and
// the last deletion.
func TestRetentionIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := filepath.Join(t.TempDir(), "audit")
		cfg := audit.Config{Key: key, Dir: before, SegmentBytes: 700}
		l := open(t, cfg)
		appendCalls(t, l, 1, 20)
		closed(t, l)
		after := copyDir(t, before)
		cfg.Dir, cfg.Retention = after, audit.Retention{MaxBytes: 2000}
		l = open(t, cfg)
		time.Sleep(audit.RetainInterval)
		synctest.Wait()
		closed(t, l)
		removed := verify(t, after).Removed
		if removed == 0 {
			t.Fatal("nothing was deleted")
		}
		gone := 0
		for _, file := range segmentFiles(t, before) {
			if _, err := os.Stat(filepath.Join(after, filepath.Base(file))); errors.Is(err, os.ErrNotExist) {
				gone++
			}
		}
		for kept := range gone + 1 {
			dir := copyDir(t, after)
			for _, file := range segmentFiles(t, before)[gone-kept : gone] {
				stem := strings.TrimSuffix(filepath.Base(file), ".log")
				for _, kind := range []string{".log", ".checkpoints", ".index"} {
					writeFile(t, filepath.Join(dir, stem+kind), readFile(t, filepath.Join(before, stem+kind)))
				}
			}
			verify(t, dir)
			cfg.Dir = dir
			l := open(t, cfg)
			appendCalls(t, l, 21, 21)
			time.Sleep(audit.RetainInterval)
			synctest.Wait()
			closed(t, l)
			if report := verify(t, dir); report.Removed < removed {
				t.Errorf("%d segments were left: %d records are deleted, want %d at least", kept, report.Removed, removed)
			}
		}
		// Whoever deletes in another order is found out.
		dir := copyDir(t, before)
		remove(t, dir, filepath.Base(segmentFiles(t, dir)[1]))
		if _, err := audit.Verify(dir, audit.VerifyConfig{}); err == nil {
			t.Error("the second segment was deleted, and Verify saw nothing")
		}
	})
}

// Somebody deletes segments of a log at rest, claims retention at its end, and waits
// for the server to sign it.
func TestForgedRetentionIsNotBelieved(t *testing.T) {
	for _, again := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			dir := newLog(t, 20, 700)
			if again { // after one that was real
				l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 700, Retention: audit.Retention{MaxBytes: 3000}})
				time.Sleep(audit.RetainInterval)
				synctest.Wait()
				closed(t, l)
			}
			s := &scene{dir: dir, records: verify(t, dir).Records}
			for _, file := range segmentFiles(t, dir) {
				s.firsts = append(s.firsts, firstOf(t, file))
			}
			s.retained(t, s.firsts[2]-1)
			// More than was deleted, as if it was still to come.
			s.forgeTail(t, s.firsts[3]-1)
			for range 2 {
				var tampered *audit.TamperError
				if _, err := audit.Verify(dir, audit.VerifyConfig{}); !errors.As(err, &tampered) || tampered.Through != s.firsts[2]-1 {
					t.Errorf("Verify: %v", err)
				}
				// The server signs the record, and it excuses nothing: what it says is not
				// signed for itself.
				closed(t, open(t, audit.Config{Key: key, Dir: dir}))
			}
		})
	}
}

// TestReadWhileRetained reads a log whose oldest segments go away meanwhile.
func TestReadWhileRetained(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	cfg := audit.Config{Key: key, Dir: dir, SegmentBytes: 4 << 10, Retention: audit.Retention{MaxBytes: 32 << 10}}
	quick := func(*os.File) error { return nil }
	l := open(t, cfg.WithRetention(2*time.Millisecond).WithSync(quick))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writer, readers sync.WaitGroup
	reads := make(chan struct{}, 1000)
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			durability := []audit.Durability{audit.Written, audit.Written, audit.Required}[i%3]
			if err := l.Append(ctx, call(i), durability); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				if _, err := audit.Verify(dir, audit.VerifyConfig{}); err != nil {
					t.Errorf("Verify: %v", err)
					return
				}
				reads <- struct{}{}
			}
		})
	}
	readers.Go(func() {
		for ctx.Err() == nil {
			next := uint64(0)
			for r, err := range view(dir).Records(ctx, 0) {
				var tampered *audit.TamperError
				if errors.As(err, &tampered) {
					t.Errorf("Records: %v", err)
					return
				}
				if err != nil {
					break // it was too slow, and says so
				}
				if next != 0 && r.GetSequence() != next {
					t.Errorf("record %d after %d", r.GetSequence(), next-1)
				}
				next = r.GetSequence() + 1
			}
			reads <- struct{}{}
		}
	})
	for range 150 {
		<-reads
	}
	for first := verify(t, dir).Removed; first == 0; first = verify(t, dir).Removed {
		<-reads
	}
	cancel()
	go func() {
		for range reads {
		}
	}()
	writer.Wait()
	readers.Wait()
	close(reads)
	closed(t, l)
}
