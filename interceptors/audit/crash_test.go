package audit_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

const writerDirEnv = "AUDIT_TEST_WRITER_DIR"

// writeUntilKilled is the child of TestKilledWriter: it appends records and
// prints each one's call id when it was acknowledged.
func writeUntilKilled(t *testing.T, dir string) {
	l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 16 << 10})
	failed := make(chan error)
	for w := range 16 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				err := l.Append(t.Context(), record(id), audit.Required)
				if err == nil {
					_, err = os.Stdout.WriteString(id + "\n")
				}
				if err != nil {
					failed <- err
				}
			}
		}()
	}
	t.Fatal(<-failed)
}

func TestKilledWriter(t *testing.T) {
	if dir := os.Getenv(writerDirEnv); dir != "" {
		writeUntilKilled(t, dir)
	}
	dir := filepath.Join(t.TempDir(), "audit")
	acknowledged := make(map[string]bool)
	for run := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledWriter$")
		cmd.Env = append(os.Environ(), writerDirEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, n := bufio.NewReader(out), 0
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // the rest, if any, is a line that was not finished
			}
			acknowledged[strings.TrimSuffix(line, "\n")] = true
			if n++; n == 300+100*run {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("writer ended with %v, want killed", err)
		}

		l := open(t, audit.Config{Key: key, Dir: dir})
		if repair := l.Repaired(); repair != nil {
			t.Logf("run %d: torn tail of %d bytes", run, repair.Bytes)
		}
		closed(t, l)
		report := verify(t, dir)
		times := make(map[string]int)
		for _, id := range callIDs(t, dir) {
			times[id]++
		}
		for id := range acknowledged {
			if times[id] != 1 {
				t.Errorf("run %d: acknowledged record %s is there %d times", run, id, times[id])
			}
		}
		if report.Records < uint64(len(acknowledged)) || report.TornTail != 0 {
			t.Errorf("run %d: %d records with a torn tail of %d, but %d were acknowledged",
				run, report.Records, report.TornTail, len(acknowledged))
		}
	}
}
