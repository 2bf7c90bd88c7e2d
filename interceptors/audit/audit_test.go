package audit_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

const (
	headerSize = 24 // of the first segment
	firstName  = "00000000000000000001.log"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// key signs the checkpoints of all logs here.
var key, public = newKey()

func newKey() (*audit.SigningKey, string) {
	private, public, err := audit.GenerateKey("sallyport.test/audit")
	if err != nil {
		panic(err)
	}
	key, err := audit.ParseSigningKey(private)
	if err != nil {
		panic(err)
	}
	return key, public
}

// headerOf is the length of a segment's header.
func headerOf(segment []byte) int {
	first := binary.BigEndian.Uint64(segment[12:])
	return headerSize + 32*bits.OnesCount64(first-1)
}

func view(dir string) audit.View { return audit.View{Dir: dir} }

// crash makes a log at rest one whose process died before it made a checkpoint of
// what its last segment holds.
func crash(t testing.TB, dir string) {
	t.Helper()
	files := segmentFiles(t, dir)
	path := strings.TrimSuffix(files[len(files)-1], ".log") + ".checkpoints"
	if filepath.Base(path) != "00000000000000000001.checkpoints" {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	all := readFile(t, path)
	writeFile(t, path, all[:bytes.Index(all, []byte("\n\n"))+2+bytes.IndexByte(all[bytes.Index(all, []byte("\n\n"))+2:], '\n')+1])
}

// epoch is the time of the first record.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// record returns a record as a call leaves it, with the given call id.
func record(id string) *auditv1.Record {
	return &auditv1.Record{
		Kind:        auditv1.Kind_KIND_CALL,
		Time:        timestamppb.New(epoch),
		Duration:    durationpb.New(850 * time.Microsecond),
		CallId:      id,
		Method:      "/sallyport.inference.v1.PredictionService/Predict",
		PeerAddress: "192.0.2.7:41234",
		Caller:      &auditv1.Caller{SpiffeId: "spiffe://sallyport.test/clinic/ward", SvidSerial: "5f3a"},
		Action:      "PREDICT",
		Model:       "breast-cancer",
	}
}

// disk is a sync that fails or hangs when told to.
type disk struct {
	mu   sync.Mutex // guards what follows
	err  error
	file string // the end of the only name that fails; empty: every file
	hang chan struct{}
}

func (d *disk) sync(f *os.File) error {
	d.mu.Lock()
	err, hang := d.err, d.hang
	if !strings.HasSuffix(f.Name(), d.file) {
		err = nil
	}
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if err != nil {
		return err
	}
	return f.Sync()
}

// fail makes the sync of files whose name ends so return err, or work again.
func (d *disk) fail(err error, file string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.file = err, file
}

// block makes every sync from now on wait until the channel is closed.
func (d *disk) block() chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hang = make(chan struct{})
	return d.hang
}

func call(i int) *auditv1.Record { return record(fmt.Sprintf("call-%d", i)) }

func open(t testing.TB, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// closed closes l, whose records are then at rest.
func closed(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func appendCalls(t testing.TB, l *audit.Log, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := l.Append(t.Context(), call(i), audit.Required); err != nil {
			t.Fatal(err)
		}
	}
}

// newLog writes n records, one a commit, into a log at rest.
func newLog(t testing.TB, n int, segmentBytes int64) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: segmentBytes})
	appendCalls(t, l, 1, n)
	closed(t, l)
	return dir
}

// callIDs returns the call ids of all records, which have to be sound.
func callIDs(t testing.TB, dir string) []string {
	t.Helper()
	var ids []string
	for r, err := range view(dir).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.GetCallId())
		if r.GetSequence() != uint64(len(ids)) {
			t.Fatalf("record %d has sequence %d", len(ids), r.GetSequence())
		}
	}
	return ids
}

// calls are the ids of call(from) to call(to).
func calls(from, to int) []string {
	var ids []string
	for i := from; i <= to; i++ {
		ids = append(ids, call(i).GetCallId())
	}
	return ids
}

func verify(t testing.TB, dir string) audit.Report {
	t.Helper()
	report, err := audit.Verify(dir, audit.VerifyConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// copyDir copies a log, so that a test may damage it.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "audit")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// contents maps the names in dir to what the files hold.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		files[e.Name()] = string(readFile(t, filepath.Join(dir, e.Name())))
	}
	return files
}

// frames returns the frames of a segment as they stand in the file.
func frames(segment []byte) [][]byte {
	var frames [][]byte
	for b := segment[headerOf(segment):]; len(b) > 0; {
		n := 4 + 4 + int(binary.BigEndian.Uint32(b)) + 32
		frames = append(frames, b[:n:n])
		b = b[n:]
	}
	return frames
}

// eventually waits until the condition holds.
func eventually(t testing.TB, holds func() bool) {
	t.Helper()
	for patience := time.After(30 * time.Second); !holds(); {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-patience:
			t.Fatal("not within 30 s")
		}
	}
}
