package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// countdown is a sync that fails so many times, from the n-th on.
type countdown struct {
	mu       sync.Mutex // guards what follows
	n, times int
}

func (c *countdown) sync(*os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n < 0 && c.times > 0 {
		c.times--
		return syscall.EIO
	}
	return nil
}

// fired tells whether it has failed.
func (c *countdown) fired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n < 0
}

// TestEverySyncFails lets each sync of a run in turn fail, once and for longer, over
// records of every durability, segments that follow one another, checkpoints and
// retention: nothing that was acknowledged is lost, there twice or out of order.
func TestEverySyncFails(t *testing.T) {
	for name, times := range map[string]int{"once": 1, "three times": 3} {
		t.Run(name, func(t *testing.T) {
			steps, removed := 0, uint64(0)
			for n, fired := 0, true; fired; n++ {
				synctest.Test(t, func(t *testing.T) {
					var gone uint64
					fired, gone = failingRun(t, n, times)
					removed = max(removed, gone)
				})
				if t.Failed() {
					t.Fatalf("sync %d", n+1)
				}
				steps = n
			}
			t.Logf("%d syncs failed in turn, retention deleted up to %d records", steps, removed)
			if steps < 50 || removed == 0 {
				t.Error("the run does too little")
			}
		})
	}
}

func failingRun(t *testing.T, n, times int) (fired bool, removed uint64) {
	fault := &countdown{n: n, times: times}
	var checkpoints [][]byte
	cfg := audit.Config{
		Key: key, Dir: filepath.Join(t.TempDir(), "audit"), SegmentBytes: 700, CheckpointInterval: time.Second,
		Retention:    audit.Retention{MaxBytes: 2500},
		Checkpointed: func(c audit.Checkpoint) { checkpoints = append(checkpoints, c.Note) },
	}
	cfg = cfg.WithSync(fault.sync).WithRetention(3 * time.Second)
	l, err := audit.Open(cfg)
	for err != nil {
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("Open: %v", err)
		}
		l, err = audit.Open(cfg)
	}
	var acknowledged []string
	for i := range 24 {
		durability := []audit.Durability{audit.Required, audit.Written, audit.Async}[i%3]
		switch err := l.Append(t.Context(), call(i), durability); {
		case err == nil:
			acknowledged = append(acknowledged, call(i).GetCallId())
		case !errors.Is(err, audit.ErrUnavailable):
			t.Fatalf("Append: %v", err)
		}
		time.Sleep(250 * time.Millisecond)
		if l.Err() != nil {
			time.Sleep(4 * audit.ProbeInterval)
		}
	}
	time.Sleep(3 * time.Second) // retention has its turn
	if err := l.Close(); err != nil {
		// The last checkpoint may have failed; the records are there.
		t.Logf("Close: %v", err)
	}
	// Another process comes by.
	closed(t, open(t, audit.Config{Key: key, Dir: cfg.Dir}))
	report, err := audit.Verify(cfg.Dir, audit.VerifyConfig{PublicKeys: []string{public}, Checkpoints: checkpoints})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	next := report.Removed
	for r, err := range view(cfg.Dir).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if next++; r.GetSequence() != next {
			t.Errorf("record %d has sequence %d", next, r.GetSequence())
		}
		if r.GetKind() == auditv1.Kind_KIND_CALL && slices.Contains(acknowledged, r.GetCallId()) {
			ids = append(ids, r.GetCallId())
		}
	}
	// Retention deletes the oldest.
	if missing := len(acknowledged) - len(ids); missing < 0 || uint64(missing) > report.Removed || !slices.Equal(ids, acknowledged[missing:]) {
		t.Errorf("acknowledged %v, on record %v, %d removed", acknowledged, ids, report.Removed)
	}
	return fault.fired(), report.Removed
}
