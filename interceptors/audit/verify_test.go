package audit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func TestVerifyReport(t *testing.T) {
	dir := newLog(t, 10, 500)
	report := verify(t, dir)
	want := audit.Report{
		Segments:    len(segmentFiles(t, dir)),
		Records:     10,
		First:       epoch,
		Last:        epoch,
		Checkpoints: 1 + len(segmentFiles(t, dir)), // one of nothing, one for each segment
		Checkpoint:  report.Checkpoint,
		Keys:        report.Keys,
		KeysFromLog: true,
	}
	for _, f := range segmentFiles(t, dir) {
		want.Bytes += int64(len(readFile(t, f)))
	}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if report.Segments < 3 || report.Checkpoint.Size != 10 || report.Uncovered() != 0 || len(report.Keys) != 1 || !strings.HasPrefix(public, report.Keys[0]) {
		t.Errorf("%+v: want several segments, a checkpoint of 10 records, and one key, that of %s", report, public)
	}
}

// rewrite applies change to the frames of a segment.
func rewrite(t *testing.T, path string, change func(frames [][]byte) [][]byte) {
	t.Helper()
	b := readFile(t, path)
	writeFile(t, path, slices.Concat(b[:headerOf(b)], slices.Concat(change(frames(b))...)))
}

// rehash makes a segment of records, with lengths and hashes that fit.
func rehash(segment []byte, records [][]byte) []byte {
	out := bytes.Clone(segment[:headerOf(segment)])
	for _, r := range records {
		length := binary.BigEndian.AppendUint32(nil, uint32(len(r)))
		out = append(out, length...)
		out = binary.BigEndian.AppendUint32(out, crc32.Checksum(length, crc32.MakeTable(crc32.Castagnoli)))
		out = append(out, r...)
		leaf := tlog.RecordHash(r)
		out = append(out, leaf[:]...)
	}
	return out
}

func recordOf(frame []byte) []byte { return bytes.Clone(frame[8 : len(frame)-32]) }

func TestTampering(t *testing.T) {
	// Segments of three records: 1-3, 4-6, 7-9, 10.
	pristine := newLog(t, 10, 600)
	names := segmentFiles(t, pristine)
	if len(names) != 4 {
		t.Fatalf("%d segments, want 4", len(names))
	}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	foreign := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: foreign, SegmentBytes: 600})
	appendCalls(t, l, 11, 20)
	closed(t, l)
	flip := func(segment, off int) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[segment])
			b := readFile(t, path)
			if off < 0 {
				off += len(b)
			}
			b[off] ^= 1
			writeFile(t, path, b)
		}
	}
	flipFrame := func(segment, off int) func(*testing.T, string) {
		return flip(segment, headerOf(readFile(t, filepath.Join(pristine, names[segment])))+off)
	}
	inFrames := func(segment int, change func([][]byte) [][]byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) { rewrite(t, filepath.Join(dir, names[segment]), change) }
	}
	rename := func(from, to string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	copyTo := func(from, to string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, to), readFile(t, filepath.Join(dir, from)))
		}
	}
	tests := []struct {
		name     string
		tamper   func(t *testing.T, dir string)
		file     string // names[i] unless it is another
		sequence uint64
	}{
		{"magic", flip(0, 0), names[0], 1},
		{"version", flip(1, 11), names[1], 4},
		{"first sequence in a header", flip(1, 19), names[1], 4},
		{"checksum of the first header", flip(0, 22), names[0], 1},
		{"tree in a later header", flip(2, 51), names[2], 7},
		{"length of a frame", flipFrame(1, 3), names[1], 4},
		{"checksum of a length", flipFrame(1, 7), names[1], 4},
		{"first byte of a record", flipFrame(0, 8), names[0], 1},
		{"last byte of a hash, end of a segment", flip(1, -1), names[1], 6},
		{"sequence of the last record", flip(3, -33), names[3], 10},
		{"last byte of the log", flip(3, -1), names[3], 10},
		{"first record dropped", inFrames(0, func(f [][]byte) [][]byte { return f[1:] }), names[0], 1},
		{"record dropped", inFrames(1, func(f [][]byte) [][]byte { return slices.Delete(f, 1, 2) }), names[1], 5},
		{"last record of a segment dropped", inFrames(1, func(f [][]byte) [][]byte { return f[:2] }), names[1], 6},
		{"all records of a segment dropped", inFrames(1, func([][]byte) [][]byte { return nil }), names[1], 4},
		{"record repeated", inFrames(1, func(f [][]byte) [][]byte { return slices.Insert(f, 1, f[0]) }), names[1], 5},
		{"record repeated at a segment's end", inFrames(1, func(f [][]byte) [][]byte { return append(f, f[2]) }), names[1], 7},
		{"record repeated at the end", inFrames(3, func(f [][]byte) [][]byte { return append(f, f[0]) }), names[3], 11},
		{"records swapped", inFrames(1, func(f [][]byte) [][]byte { return [][]byte{f[1], f[0], f[2]} }), names[1], 4},
		{"record of another log", func(t *testing.T, dir string) {
			other := frames(readFile(t, segmentFiles(t, foreign)[1]))
			rewrite(t, filepath.Join(dir, names[2]), func(f [][]byte) [][]byte { return append([][]byte{other[0]}, f[1:]...) })
		}, names[2], 7},
		{"record changed and its own hash made to fit", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[1])
			b := readFile(t, path)
			f := frames(b)
			r := bytes.Replace(recordOf(f[0]), []byte("clinic"), []byte("tavern"), 1)
			writeFile(t, path, slices.Concat(rehash(b, [][]byte{r}), f[1], f[2]))
		}, names[1], 4},
		{"record changed and all hashes of its segment made to fit", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[1])
			b := readFile(t, path)
			f := frames(b)
			r := bytes.Replace(recordOf(f[0]), []byte("clinic"), []byte("tavern"), 1)
			writeFile(t, path, rehash(b, [][]byte{r, recordOf(f[1]), recordOf(f[2])}))
		}, names[1], 4},
		{"record dropped at the end's front and hashes made to fit", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[2])
			b := readFile(t, path)
			f := frames(b)
			writeFile(t, path, rehash(b, [][]byte{recordOf(f[1]), recordOf(f[2])}))
		}, names[2], 7},
		{"record that does not decode, hashes made to fit", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[3])
			b := readFile(t, path)
			r := recordOf(frames(b)[0])
			r[0] = 0xff
			writeFile(t, path, rehash(b, [][]byte{r}))
		}, names[3], 10},
		{"sequence of the last record changed, its hash made to fit", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[3])
			b := readFile(t, path)
			r := recordOf(frames(b)[0])
			r[len(r)-1]++
			writeFile(t, path, rehash(b, [][]byte{r}))
		}, names[3], 10},
		{"record that does not decode to its sequence, hashes made to fit", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[3])
			// A call id that ends with what a sequence looks like.
			writeFile(t, path, rehash(readFile(t, path), [][]byte{{0x2a, 0x02, 0x08, 10}}))
		}, names[3], 10},
		{"byte cut out of a record", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[0])
			b := readFile(t, path)
			writeFile(t, path, slices.Delete(b, headerSize+20, headerSize+21))
		}, names[0], 1},
		{"byte put into a record", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[0])
			b := readFile(t, path)
			writeFile(t, path, slices.Insert(b, headerSize+20, 'x'))
		}, names[0], 1},
		{"earlier segment cut off inside a frame", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[1])
			b := readFile(t, path)
			writeFile(t, path, b[:len(b)-10])
		}, names[1], 6},
		{"earlier segment with zeros behind it", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[1])
			writeFile(t, path, append(readFile(t, path), make([]byte, 1024)...))
		}, names[1], 7},
		{"earlier segment emptied", func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, names[1]), nil) }, names[1], 4},
		{"last segment emptied", func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, names[3]), nil) }, names[3], 10},
		{"last segment cut off in its header", func(t *testing.T, dir string) {
			path := filepath.Join(dir, names[3])
			writeFile(t, path, readFile(t, path)[:headerSize-1])
		}, names[3], 10},
		{"first segment missing", func(t *testing.T, dir string) { remove(t, dir, names[0]) }, names[0], 1},
		{"segment missing", func(t *testing.T, dir string) { remove(t, dir, names[1]) }, names[0], 4},
		{"last segment renamed", rename(names[3], "00000000000000000011.log"), names[2], 10},
		{"first segment renamed", rename(names[0], "00000000000000000002.log"), "00000000000000000002.log", 2},
		{"segment renamed to no sequence", rename(names[1], "four.log"), "four.log", 0},
		{"segment there twice", copyTo(names[1], "00000000000000000005.log"), "00000000000000000005.log", 5},
		{"segment there twice under a short name", copyTo(names[1], "4.log"), "4.log", 4},
		{"segment there twice, at the end", copyTo(names[3], "00000000000000000011.log"), "00000000000000000011.log", 11},
		{"segments swapped", func(t *testing.T, dir string) {
			rename(names[1], "x")(t, dir)
			rename(names[2], names[1])(t, dir)
			rename("x", names[2])(t, dir)
		}, names[1], 4},
		{"segment of another log", func(t *testing.T, dir string) {
			other := filepath.Base(segmentFiles(t, foreign)[1])
			if other != names[1] {
				t.Fatalf("segments of the logs begin differently: %s", other)
			}
			writeFile(t, filepath.Join(dir, names[1]), readFile(t, filepath.Join(foreign, other)))
		}, names[1], 4},
		{"a directory in a segment's place", func(t *testing.T, dir string) {
			remove(t, dir, names[1])
			if err := os.Mkdir(filepath.Join(dir, names[1]), 0o700); err != nil {
				t.Fatal(err)
			}
		}, names[1], 4},
		{"a link in a segment's place", func(t *testing.T, dir string) {
			rename(names[1], "elsewhere")(t, dir)
			if err := os.Symlink("elsewhere", filepath.Join(dir, names[1])); err != nil {
				t.Fatal(err)
			}
		}, names[1], 4},
	}
	// Open reads the last segment and the headers of the others; what it does not see
	// there is still there for Verify to find.
	beyondOpen := []string{
		"first byte of a record", "last byte of a hash, end of a segment", "first record dropped", "record dropped",
		"last record of a segment dropped", "all records of a segment dropped", "record repeated",
		"record repeated at a segment's end", "records swapped", "record of another log",
		"record changed and its own hash made to fit", "record changed and all hashes of its segment made to fit",
		"record dropped at the end's front and hashes made to fit", "byte cut out of a record", "byte put into a record",
		"earlier segment cut off inside a frame", "earlier segment with zeros behind it", "first segment missing",
		"length of a frame", "checksum of a length",
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyDir(t, pristine)
			tt.tamper(t, dir)
			_, err := audit.Verify(dir, audit.VerifyConfig{})
			var tampered *audit.TamperError
			if !errors.As(err, &tampered) {
				t.Fatalf("Verify: %v, want a TamperError", err)
			}
			if filepath.Base(tampered.File) != tt.file || tampered.Sequence != tt.sequence {
				t.Errorf("Verify names %v, want record %d in %s", tampered, tt.sequence, tt.file)
			}
			l, err := audit.Open(audit.Config{Key: key, Dir: dir})
			if err == nil {
				closed(t, l)
				if _, err := audit.Verify(dir, audit.VerifyConfig{}); !errors.As(err, &tampered) || filepath.Base(tampered.File) != tt.file {
					t.Errorf("Verify after Open: %v", err)
				}
			}
			if want := !slices.Contains(beyondOpen, tt.name); errors.As(err, &tampered) != want {
				t.Errorf("Open: %v, want a TamperError: %v", err, want)
			}
			if tt.name == "first segment missing" {
				return // so it is after retention, too
			}
			for _, err := range view(dir).Records(t.Context(), 0) {
				if err == nil {
					continue
				}
				if !errors.As(err, &tampered) {
					t.Errorf("Records: %v, want a TamperError", err)
				}
				return
			}
			t.Error("Records saw nothing")
		})
	}
	verify(t, pristine)
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestEveryByteCounts(t *testing.T) {
	dir := newLog(t, 4, 500)
	for _, path := range segmentFiles(t, dir) {
		b := readFile(t, path)
		for i := range b {
			for _, mask := range []byte{1, 0x80, 0xff} {
				b[i] ^= mask
				writeFile(t, path, b)
				b[i] ^= mask
				if report, err := audit.Verify(dir, audit.VerifyConfig{}); err == nil {
					t.Fatalf("byte %d of %s changed by %#x: not seen, %+v", i, filepath.Base(path), mask, report)
				}
			}
		}
		writeFile(t, path, b)
	}
	verify(t, dir)
}
