package audit_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
)

const (
	writerDirEnv = "AUDIT_TEST_WRITER_DIR"
	// killsEnv is how often writers are killed, for example 100; default a few times.
	killsEnv = "SALLYPORT_AUDIT_KILLS"
)

func kills(t *testing.T, otherwise int) int {
	t.Helper()
	env := os.Getenv(killsEnv)
	if env == "" {
		return otherwise
	}
	n, err := strconv.Atoi(env)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What the child of TestKilledWriter prints, a line each: a record that was
// acknowledged, with its durability, and a checkpoint that was handed out.
const (
	requiredLine   = "R "
	writtenLine    = "W "
	checkpointLine = "C "
)

// writeUntilKilled is the child of TestKilledWriter. It never ends by itself.
func writeUntilKilled(t *testing.T, dir string) {
	var mu sync.Mutex // one line at a time
	say := func(kind, what string) {
		mu.Lock()
		defer mu.Unlock()
		if _, err := os.Stdout.WriteString(kind + what + "\n"); err != nil {
			panic(err)
		}
	}
	cfg := audit.Config{
		Key: audittest.Key(), Dir: dir, SegmentBytes: 16 << 10, CheckpointInterval: 10 * time.Millisecond,
		// More than a run writes.
		Retention:    audit.Retention{MaxBytes: 512 << 10},
		Checkpointed: func(c audit.Checkpoint) { say(checkpointLine, strconv.Quote(string(c.Note))) },
	}
	l := open(t, cfg.WithRetention(5*time.Millisecond))
	failed := make(chan error)
	for w := range 16 {
		durability, line := audit.Required, requiredLine
		if w%2 == 0 {
			durability, line = audit.Written, writtenLine
		}
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				if err := l.Append(t.Context(), record(id), durability); err != nil {
					failed <- err
				}
				say(line, id)
			}
		}()
	}
	t.Fatal(<-failed)
}

// TestKilledWriter kills writers in the middle of their work, while segments follow
// one another: every record that was acknowledged is there, once, and all that was
// handed out as a checkpoint still is one of the log.
func TestKilledWriter(t *testing.T) {
	if dir := os.Getenv(writerDirEnv); dir != "" {
		writeUntilKilled(t, dir)
	}
	dir := filepath.Join(t.TempDir(), "audit")
	acknowledged := map[string]int{} // by id, in which run
	var checkpoints [][]byte
	count, torn := map[string]int{}, 0
	rounds := kills(t, 5)
	for run := range rounds {
		ids, signed := killedAfter(t, dir, 300+100*(run%7))
		for id, line := range ids {
			acknowledged[id] = run
			count[line]++
		}
		checkpoints = append(checkpoints, signed...)

		l := open(t, audit.Config{Key: audittest.Key(), Dir: dir})
		if l.Repaired() != nil {
			torn++
		}
		closed(t, l)
		report, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: []string{audittest.Key().Public()}, Checkpoints: checkpoints})
		if err != nil {
			t.Fatalf("run %d: %v", run, err)
		}
		if report.Removed == 0 && report.Given != len(checkpoints) || report.TornTail != 0 {
			t.Errorf("run %d: %d of %d checkpoints fit, a torn tail of %d", run, report.Given, len(checkpoints), report.TornTail)
		}
		times, first := map[string]int{}, 0
		for r, err := range view(dir).Records(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			if r.GetKind() == auditv1.Kind_KIND_CALL {
				times[r.GetCallId()]++
			}
			if first++; r.GetSequence() != report.Removed+uint64(first) {
				t.Fatalf("record %d has sequence %d", first, r.GetSequence())
			}
		}
		for id, from := range acknowledged {
			// What retention has deleted is of runs before.
			if n := times[id]; n > 1 || n == 0 && (report.Removed == 0 || from == run) {
				t.Errorf("run %d: acknowledged record %s of run %d is there %d times", run, id, from, n)
			}
		}
	}
	report := verify(t, dir)
	t.Logf("%d kills: acknowledged %v, %d torn tails, %d checkpoints; %d records, %d of them deleted, in %d segments",
		rounds, count, torn, len(checkpoints), report.Records, report.Removed, report.Segments)
	if count[requiredLine] == 0 || count[writtenLine] == 0 || len(checkpoints) < rounds {
		t.Error("there was no load")
	}
}

// killedAfter runs a writer until it has acknowledged so many records, and returns
// which, and its checkpoints.
func killedAfter(t *testing.T, dir string, records int) (ids map[string]string, checkpoints [][]byte) {
	t.Helper()
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
	ids = map[string]string{}
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // the rest, if any, is a line that was not finished
		}
		kind, what := line[:2], strings.TrimSuffix(line[2:], "\n")
		if kind == checkpointLine {
			note, err := strconv.Unquote(what)
			if err != nil {
				t.Fatal(err)
			}
			checkpoints = append(checkpoints, []byte(note))
			continue
		}
		ids[what] = kind
		if len(ids) == records {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("writer ended with %v, want killed", err)
	}
	return ids, checkpoints
}
