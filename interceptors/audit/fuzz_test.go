package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// FuzzRead reads arbitrary bytes as a log of one segment, or, if a record is
// given, as what follows a frame with that record. What is accepted must be
// accepted as well, and say the same, once its torn tail is cut off.
func FuzzRead(f *testing.F) {
	whole := readFile(f, filepath.Join(newLog(f, 3, 0), firstName))
	header, none := whole[:headerSize:headerSize], []byte(nil)
	f.Add(none, whole)
	f.Add(none, header)
	f.Add(none, whole[:len(whole)-5])
	f.Add(none, append(whole[:len(whole):len(whole)], make([]byte, 600)...))
	f.Add(none, append(header, 0, 0x10, 0, 0, 1, 2, 3, 4))
	f.Add(recordOf(frames(whole)[0]), frames(whole)[1])
	f.Add([]byte{0x08, 0x01}, make([]byte, 1024))
	f.Add([]byte{0x2a, 0x02, 0x08, 0x01}, whole[headerSize:headerSize+7])
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, record, rest []byte) {
		segment := rest
		if len(record) > 0 {
			segment = append(rehash(header, [][]byte{record}), rest...)
		}
		dir, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }() // t.TempDir is too slow for a fuzzer
		writeFile(t, filepath.Join(dir, firstName), segment)
		report, err := audit.Verify(dir, audit.VerifyConfig{})
		if err != nil {
			if _, ok := errors.AsType[*audit.TamperError](err); !ok {
				t.Fatalf("Verify: %v, want a TamperError", err)
			}
			return
		}
		if got := report.Bytes + report.TornTail; got != int64(len(segment)) {
			t.Fatalf("%d bytes of %d accounted for", got, len(segment))
		}
		if got := len(callIDs(t, dir)); uint64(got) != report.Records {
			t.Fatalf("Records yields %d records, Verify counts %d", got, report.Records)
		}
		writeFile(t, filepath.Join(dir, firstName), segment[:report.Bytes])
		report.TornTail = 0
		if diff := cmp.Diff(report, verify(t, dir)); diff != "" {
			t.Fatalf("report without the torn tail (-before +after):\n%s", diff)
		}
	})
}
