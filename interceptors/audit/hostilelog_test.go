package audit_test

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"encoding/base64"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func TestForgedRetentionExcusesNothing(t *testing.T) {
	dir := newLog(t, 40, 700)
	var outside []byte
	s := &scene{dir: dir, records: 40}
	for _, f := range segmentFiles(t, dir) {
		s.firsts = append(s.firsts, firstOf(t, f))
	}
	outside = verify(t, dir).Checkpoint.Note
	through := s.last() - 1
	s.forgeTail(t, through)                              // 1. while the server is down
	closed(t, open(t, audit.Config{Key: key, Dir: dir})) // 2. its next start
	s.retained(t, through)                               // 3. then delete
	r, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: []string{public}, Checkpoints: [][]byte{outside}})
	if err == nil {
		t.Errorf("%d covered records are gone, Verify accepts it; %d given fit", r.Removed, r.Given)
	}
}

// The owner of the key writes history anew and says that retention has deleted what the witness knows.
func TestCheckpointsGivenThatSayNothing(t *testing.T) {
	private, pub, err := audit.GenerateKey("sallyport.test/audit")
	if err != nil {
		t.Fatal(err)
	}
	k, _ := audit.ParseSigningKey(private)
	signer, _ := note.NewSigner(private)
	honest := filepath.Join(t.TempDir(), "honest")
	l := open(t, audit.Config{Key: k, Dir: honest})
	appendCalls(t, l, 1, 20)
	closed(t, l)
	witnessed := verify(t, honest).Checkpoint.Note

	var tree audit.Tree
	for range 100 {
		var leaf [32]byte
		_, _ = rand.Read(leaf[:])
		tree.Add(leaf)
	}
	dir := filepath.Join(t.TempDir(), "forged")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	header := tree.Header()
	r := retention(t, 100, 101)
	tree.Add(tlog.RecordHash(r))
	root := tree.Root()
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("sallyport.test/audit\n101\n%s\n", base64.StdEncoding.EncodeToString(root[:]))}, signer)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, nameOf(101)), rehash(header, [][]byte{r}))
	writeFile(t, filepath.Join(dir, besideOf(101)), signed)
	report, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: []string{pub}, Checkpoints: [][]byte{witnessed}})
	if err == nil {
		t.Errorf("history written anew verifies against the witness's checkpoint: given %d", report.Given)
	}
}

func TestProveIsBoundedInMemory(t *testing.T) {
	dir := newLog(t, 3, 0)
	segment := readFile(t, filepath.Join(dir, firstName))
	const count = 1 << 22
	var b []byte
	b = append(b, "SALLYIDX"...)
	b = binary.BigEndian.AppendUint32(b, 2)
	for _, v := range []uint64{1, count, 1, 0, 0, uint64(len(segment)), headerSize} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	h := fnv.New64a()
	h.Write([]byte(strings.ToUpper(call(1).GetCallId())))
	tail := binary.BigEndian.AppendUint64(nil, h.Sum64())
	tail = append(tail, 0, 0, 0, 0)
	tail = binary.BigEndian.AppendUint32(tail, crc32.ChecksumIEEE(nil))
	f, err := os.Create(filepath.Join(dir, indexNameOf(1)))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write(b)
	_, _ = f.WriteAt(tail, 60+count*40)
	_ = f.Close()
	c := fmt.Sprintf("sallyport.test/audit\n%d\n", count) + strings.Repeat("A", 43) + "=\n\n— sallyport.test/audit AAAA\n"
	writeFile(t, filepath.Join(dir, besideOf(1)), []byte(c))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = audit.Prove(dir, call(1).GetCallId(), nil)
	runtime.ReadMemStats(&after)
	var st syscall.Stat_t
	_ = syscall.Stat(filepath.Join(dir, indexNameOf(1)), &st)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%v: %d MiB allocated for a log of 3 records, by a file of %d KiB on disk", err, grown>>20, st.Blocks/2)
	} else {
		t.Log(err)
	}
}

// One index that could not be written stops retention until the next start.
func TestRetentionMakesIndexesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit"), SegmentBytes: 700, Retention: audit.Retention{MaxBytes: 1500}}
		l := open(t, cfg.WithSync(d.sync))
		d.fail(syscall.ENOSPC, ".index.tmp")
		appendCalls(t, l, 1, 5)
		synctest.Wait()
		d.fail(nil, "")
		appendCalls(t, l, 6, 60)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(segmentFiles(t, cfg.Dir)); n > 5 {
			t.Errorf("%d segments are left after an hour, Err: %v", n, l.Err())
		}
		closed(t, l)
	})
}
