package audit_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// flaky fails the sync of segments that hold records, n times.
func flaky(n int) func(*os.File) error {
	return func(f *os.File) error {
		info, _ := f.Stat()
		if strings.Contains(f.Name(), ".log.tmp") && info.Size() > 200 && n > 0 {
			n--
			return syscall.EIO
		}
		return f.Sync()
	}
}

func TestWrittenSurvivesTwoFailures(t *testing.T) {
	cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), Timeout: time.Second}
	l := open(t, cfg.WithSync(flaky(2)))
	appendAs(t, l, 1, audit.Written)
	time.Sleep(3 * time.Second)
	t.Logf("Err says %v", l.Err())
	if err := l.Append(t.Context(), call(2), audit.Required); err != nil {
		t.Errorf("Append after two failed syncs: %v; Err says %v", err, l.Err())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestWrittenSurvivesATimeout(t *testing.T) {
	cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), Timeout: time.Second}
	var d disk
	l := open(t, cfg.WithSync(d.sync))
	release := d.block()
	appendAs(t, l, 1, audit.Written)
	time.Sleep(150 * time.Millisecond)                // the committer is at the disk
	_ = l.Append(t.Context(), call(2), audit.Written) // times out
	d.fail(syscall.EIO, "")                           // for the next sync
	close(release)                                    // the first sync returns well
	time.Sleep(300 * time.Millisecond)
	d.fail(nil, "")
	time.Sleep(2 * time.Second)
	t.Logf("Err says %v", l.Err())
	if err := l.Append(t.Context(), call(3), audit.Required); err != nil {
		t.Errorf("Append: %v; Err says %v", err, l.Err())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// No key: a log of other records, its checkpoints and key list removed, is signed by
// the server at its next start.
func TestReplacedLogIsNotSigned(t *testing.T) {
	dir := newLog(t, 20, 0)
	evil, _ := newKey()
	forged := filepath.Join(t.TempDir(), "forged")
	l := open(t, audit.Config{Key: evil, Dir: forged})
	for range 20 {
		if err := l.Append(t.Context(), record("forged"), audit.Required); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, l)
	for _, name := range []string{"00000000000000000001.checkpoints", "log.pub"} {
		if err := os.Remove(filepath.Join(forged, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(forged)), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	l, err := audit.Open(audit.Config{Key: key, Dir: dir})
	if err == nil {
		closed(t, l)
	}
	var tampered *audit.TamperError
	if !errors.As(err, &tampered) {
		t.Errorf("Open: %v, want a TamperError", err)
	}
}

// No key: the times in the header of an index make retention delete what is young.
func TestRetentionReadsWhatItDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "audit")
		cfg := audit.Config{Key: key, Dir: dir, SegmentBytes: 700, Retention: audit.Retention{MaxAge: 8760 * time.Hour}}
		l := open(t, cfg)
		for i := 1; i <= 20; i++ {
			r := call(i)
			r.Time.Seconds = time.Now().Unix()
			if err := l.Append(t.Context(), r, audit.Required); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		witnessed := verify(t, dir).Checkpoint.Note
		indexes, _ := filepath.Glob(filepath.Join(dir, "*.index"))
		for _, path := range indexes[:3] {
			b := readFile(t, path)
			binary.BigEndian.PutUint64(b[8+4+4*8:], 1) // to: 1970
			binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)))
			writeFile(t, path, b)
		}
		time.Sleep(audit.RetainInterval + time.Second)
		synctest.Wait()
		closed(t, l)
		report, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: []string{public}, Checkpoints: [][]byte{witnessed}})
		if err == nil && report.Removed > 0 {
			t.Errorf("%d covered records, seconds old, are gone, and Verify accepts it (%d given fit)", report.Removed, report.Given)
		}
	})
}

// A hostile or damaged index hides a call, or makes an intact segment look tampered with.
func TestIndexHidesNothing(t *testing.T) {
	dir := newLog(t, 20, 700)
	path := filepath.Join(dir, "00000000000000000001.index")
	pristine := readFile(t, path)
	count := int(binary.BigEndian.Uint64(pristine[8+4+8:]))
	b := append([]byte(nil), pristine...)
	clear(b[8+4+6*8+count*40 : len(b)-4])
	writeFile(t, path, b)
	if _, err := view(dir).Find(t.Context(), call(1).GetCallId()); err != nil {
		t.Errorf("Find of a call that is on record: %v", err)
	}
	b = append([]byte(nil), pristine...)
	clear(b[8+4+6*8 : 8+4+6*8+count*8])
	writeFile(t, path, b)
	if _, err := view(dir).Find(t.Context(), call(1).GetCallId()); err != nil {
		t.Errorf("Find of a call that is on record: %v", err)
	}
}

// The last checkpoint before a quiet time is lost with one failure of the witness.
func TestWitnessTriesAgainInAQuietTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "witness")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w, err := audit.NewWitness(audit.WitnessConfig{Directory: dir, Interval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), Checkpointed: w.Checkpointed, CheckpointInterval: 50 * time.Millisecond})
	time.Sleep(100 * time.Millisecond)
	away := dir + ".away"
	_ = os.Rename(dir, away)
	appendCalls(t, l, 1, 3)
	time.Sleep(300 * time.Millisecond)
	_ = os.Rename(away, dir)
	time.Sleep(time.Second) // a hundred intervals
	closed(t, l)
	if err := w.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*3-*.checkpoint"))
	if len(files) != 1 {
		t.Errorf("the witness never got the checkpoint of 3 records")
	}
}

// The file of checkpoints is deleted under the server: what follows is written behind a hole.
func TestCheckpointsDeletedUnderTheLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir, CheckpointInterval: 20 * time.Millisecond})
	appendCalls(t, l, 1, 3)
	time.Sleep(100 * time.Millisecond)
	if err := os.Remove(filepath.Join(dir, "00000000000000000001.checkpoints")); err != nil {
		t.Fatal(err)
	}
	appendCalls(t, l, 4, 6)
	time.Sleep(100 * time.Millisecond)
	t.Logf("Err says %v, checkpoint of %d", l.Err(), l.Stats().Checkpoint)
	closed(t, l)
	if _, err := audit.Verify(dir, audit.VerifyConfig{}); err != nil {
		t.Errorf("Verify: %v", err)
	}
	l, err := audit.Open(audit.Config{Key: key, Dir: dir})
	if err == nil {
		closed(t, l)
	} else {
		t.Errorf("Open: %v", err)
	}
}
