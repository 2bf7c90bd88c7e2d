package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// FuzzRead reads arbitrary bytes as a log of one segment: what Verify accepts,
// Open accepts, and what it refuses, Open refuses.
func FuzzRead(f *testing.F) {
	whole := readFile(f, filepath.Join(newLog(f, 3, 0), firstName))
	f.Add(whole)
	f.Add(whole[:headerSize])
	f.Add(whole[:len(whole)-5])
	f.Add(append(whole[:len(whole):len(whole)], make([]byte, 600)...))
	f.Add(append(whole[:headerSize:headerSize], 0, 0x10, 0, 0, 1, 2, 3, 4))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, segment []byte) {
		dir, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }() // t.TempDir is too slow for a fuzzer
		writeFile(t, filepath.Join(dir, firstName), segment)
		report, err := audit.Verify(dir)
		if err != nil {
			if _, ok := errors.AsType[*audit.TamperError](err); !ok {
				t.Fatalf("Verify: %v, want a TamperError", err)
			}
			return
		}
		if got := report.Bytes + report.TornTail; got != int64(len(segment)) {
			t.Fatalf("%d bytes of %d accounted for", got, len(segment))
		}
		l, err := audit.Open(audit.Config{Dir: dir})
		if err != nil {
			t.Fatalf("Verify accepted what Open refuses: %v", err)
		}
		closed(t, l)
		if again := verify(t, dir); again.Records != report.Records || again.Head != report.Head || again.TornTail != 0 {
			t.Fatalf("after Open %+v, before %+v", again, report)
		}
	})
}
