//go:build spire && linux

package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// event is a line that a workload writes; see internal/workload.
type event struct {
	Time                       time.Time
	Kind, Code, Reason, Detail string
	Serial                     string
	NotAfter                   time.Time `json:"not_after"`
	Load                       *workloadLoad
	Token                      string
}

type workloadLoad struct {
	Calls, CallsFailed                                int
	Batches, BatchesFailed, BatchesLost, BatchesTwice int
	Rotations, Moves                                  int
}

// workload is a client in a process of its own. SPIRE knows it by its binary.
type workload struct {
	*program
	stdin  io.WriteCloser
	events *events
}

// binaries makes copies of a program, each a workload to SPIRE.
type binaries struct{ dir, client, cli string }

// buildBinaries builds the client that workloads run and takes `sallyport` from
// bin, where `make test-spire` builds it.
func buildBinaries(t *testing.T, dir string) *binaries {
	t.Helper()
	b := &binaries{dir: dir, client: filepath.Join(dir, "client"), cli: "../../bin/sallyport"}
	out, err := exec.Command("go", "build", "-tags", "spire", "-o", b.client, "./internal/workload").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return b
}

// copy is the path of a copy of the program under another name.
func (b *binaries) copy(t *testing.T, program, name string) string {
	t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatalf("%v: run make test-spire, which builds it", err)
	}
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// startWorkload runs a client until the test ends.
func startWorkload(t *testing.T, binary string, args ...string) *workload {
	t.Helper()
	w := &workload{events: &events{grown: make(chan struct{})}}
	w.program = &program{cmd: exec.Command(binary, args...), stdout: newTranscript(), stderr: newTranscript(), ended: make(chan struct{})}
	w.cmd.Stdout, w.cmd.Stderr = io.MultiWriter(w.stdout, w.events), w.stderr
	var err error
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	return w
}

// tell writes a line to the workload.
func (w *workload) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(w.stdin, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// load is what the workload's load came to since it was last asked.
func (w *workload) load(t *testing.T) workloadLoad {
	t.Helper()
	asked := time.Now()
	w.tell(t, "report")
	return *w.await(t, patience, "its load", func(e event) bool { return e.Kind == "load" && e.Time.After(asked) }).Load
}

// await waits for the first event that fits, also of the past.
func (w *workload) await(t *testing.T, limit time.Duration, what string, fits func(event) bool) event {
	t.Helper()
	e, err := w.events.await(limit, w.ended, fits)
	if err != nil {
		t.Fatalf("%s: no %s: %v; it wrote:\n%s%s", filepath.Base(w.cmd.Path), what, err, tail(w.stdout.String()), w.stderr)
	}
	return e
}

// kind fits the first event of a kind after a time.
func kind(kind string, after time.Time) func(event) bool {
	return func(e event) bool { return e.Kind == kind && e.Time.After(after) }
}

// events are what a workload wrote.
type events struct {
	mu    sync.Mutex // guards what follows
	rest  []byte     // a line that is not whole
	all   []event
	bad   error
	grown chan struct{} // closed when there is more
}

func (e *events) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rest = append(e.rest, p...)
	for {
		line, rest, whole := bytes.Cut(e.rest, []byte("\n"))
		if !whole {
			break
		}
		var next event
		if err := json.Unmarshal(line, &next); err != nil {
			e.bad = errors.Join(e.bad, fmt.Errorf("%q: %w", line, err))
		}
		e.all, e.rest = append(e.all, next), rest
	}
	close(e.grown)
	e.grown = make(chan struct{})
	return len(p), nil
}

// list is a copy of the events so far.
func (e *events) list() []event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]event(nil), e.all...)
}

func (e *events) await(limit time.Duration, ended <-chan struct{}, fits func(event) bool) (event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	over := false
	for {
		e.mu.Lock()
		all, grown, bad := e.all, e.grown, e.bad
		e.mu.Unlock()
		if bad != nil {
			return event{}, bad
		}
		for _, one := range all {
			if fits(one) {
				return one, nil
			}
		}
		if over {
			return event{}, errEnded
		}
		select {
		case <-grown:
		case <-ended:
			over = true // look once more: the event may be its last words
		case <-ctx.Done():
			return event{}, fmt.Errorf("not within %v", limit)
		}
	}
}
