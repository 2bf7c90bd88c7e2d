package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func TestRecordsFrom(t *testing.T) {
	dir := newLog(t, 10, 600)
	for _, tt := range []struct {
		from uint64
		want []string
	}{
		{0, calls(1, 10)}, {1, calls(1, 10)}, {2, calls(2, 10)}, {7, calls(7, 10)}, {10, calls(10, 10)}, {11, nil}, {1 << 63, nil},
	} {
		var got []string
		for r, err := range view(dir).Records(t.Context(), tt.from) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.GetCallId())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("from %d: %v, want %v", tt.from, got, tt.want)
		}
	}
}

func TestNoLog(t *testing.T) {
	for name, dir := range map[string]string{"no directory": filepath.Join(t.TempDir(), "none"), "an empty one": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			for _, err := range view(dir).Records(t.Context(), 0) {
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("Records: %v, want ErrNotExist", err)
				}
			}
			for _, err := range view(dir).Follow(t.Context(), 0) {
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("Follow: %v, want ErrNotExist", err)
				}
			}
			if _, err := audit.Verify(dir, audit.VerifyConfig{}); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("Verify: %v, want ErrNotExist", err)
			}
		})
	}
}

// TestReadWhileWritten reads a log that grows and rotates in every way there is.
func TestReadWhileWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 4 << 10})
	const workers, each = 8, 150
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers, readers sync.WaitGroup
	for w := range workers {
		writers.Go(func() {
			for i := range each {
				if err := l.Append(ctx, call(w*each+i), audit.Required); err != nil {
					t.Error(err)
				}
			}
		})
	}
	written := make(chan struct{})
	readers.Go(func() {
		next := uint64(1)
		for r, err := range view(dir).Follow(ctx, 0) {
			if err != nil || r.GetSequence() != next {
				t.Errorf("Follow yields record %d with error %v, want %d", r.GetSequence(), err, next)
				return
			}
			if next++; next > workers*each {
				return
			}
		}
	})
	readers.Go(func() {
		for last := uint64(0); ; {
			report, err := audit.Verify(dir, audit.VerifyConfig{})
			if err != nil || report.Records < last {
				t.Errorf("Verify: %d records after %d, error %v", report.Records, last, err)
				return
			}
			last = report.Records
			select {
			case <-written:
				return
			default:
			}
		}
	})
	writers.Wait()
	close(written)
	readers.Wait()
}

func TestFollowEndsWithContext(t *testing.T) {
	dir := newLog(t, 3, 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range view(dir).Follow(ctx, 2) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 2 {
			cancel()
		}
	}
	if n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}

// A follower must not stick to a tail that a restart cut off.
func TestFollowPastRepair(t *testing.T) {
	dir := newLog(t, 3, 0)
	crash(t, dir)
	path := filepath.Join(dir, firstName)
	b := readFile(t, path)
	writeFile(t, path, b[:len(b)-10])
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan string)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(seen)
		for r, err := range view(dir).Follow(ctx, 0) {
			if err != nil {
				t.Error(err)
				return
			}
			seen <- r.GetCallId()
		}
	})
	if got := []string{<-seen, <-seen}; !slices.Equal(got, calls(1, 2)) {
		t.Errorf("before the repair: %v", got)
	}
	l := open(t, audit.Config{Key: key, Dir: dir})
	appendCalls(t, l, 4, 4)
	if got := <-seen; got != "call-4" {
		t.Errorf("after the repair: %q", got)
	}
	cancel()
	wg.Wait()
}
