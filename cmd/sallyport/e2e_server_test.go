package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// patience is how long a test waits for what should come at once, on a machine
// that has much else to do.
const patience = 30 * time.Second

// server is a sallyport process that serves.
type server struct {
	dir            string // that it keeps its files in
	address, admin string
	cmd            *exec.Cmd
	stdout, stderr *transcript
	ended          chan struct{} // closed when the process has ended
}

var serving = regexp.MustCompile(`msg=serving address=(\S+) admin=(\S+)`)

// launch runs sallyport with ONNX Runtime from library, and returns when it
// serves. The error tells what it wrote if it ended instead.
func launch(dir, library string, args ...string) (*server, error) {
	return launchAs(dir, library, nil, args...)
}

// launchAs is launch with a command before it, which becomes sallyport.
func launchAs(dir, library string, before []string, args ...string) (*server, error) {
	line := slices.Concat(before, []string{"sallyport"}, args)
	s := &server{
		dir: dir, cmd: exec.Command(line[0], line[1:]...),
		stdout: newTranscript(), stderr: newTranscript(), ended: make(chan struct{}),
	}
	s.cmd.Env = append(os.Environ(), onnx.LibraryEnv+"="+library, "GORACE=atexit_sleep_ms=0")
	s.cmd.Stdout, s.cmd.Stderr = s.stdout, s.stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // ProcessState has it
		close(s.ended)
	}()
	found, err := s.stderr.await(serving, s.ended)
	if err == nil && args[0] == "dev" {
		_, err = s.stdout.await(regexp.MustCompile(`(?m)^ready `+regexp.QuoteMeta(found[1])+`$`), s.ended)
	}
	if err != nil {
		s.kill()
		return nil, fmt.Errorf("sallyport %s: %w; it wrote:\n%s%s", strings.Join(args, " "), err, s.stdout, s.stderr)
	}
	s.address, s.admin = found[1], found[2]
	return s, nil
}

// startDev runs `sallyport dev` on ports of the system's choice until the test
// ends. A file of dir that is there is used as it is.
func startDev(t testing.TB, dir string) *server {
	t.Helper()
	return start(t, dir, "dev", "--dir", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
}

func start(t testing.TB, dir string, args ...string) *server {
	t.Helper()
	return startAs(t, dir, nil, args...)
}

func startAs(t testing.TB, dir string, before []string, args ...string) *server {
	t.Helper()
	s, err := launchAs(dir, onnxtest.Library(t), before, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if fault := regexp.MustCompile(`DATA RACE|panic: |fatal error: `).FindString(s.stderr.String()); fault != "" {
			t.Errorf("the server wrote %q", fault)
		}
		if t.Failed() {
			t.Logf("the server wrote:\n%s", s.stderr)
		}
	})
	return s
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.ended
}

// promptly is how soon a server ends that nobody uses: before it would give up
// on those who do, 15 s unless configured.
const promptly = 12 * time.Second

// stop sends the signal and waits for the end. The error is that the process did
// not end as a server should that is asked to.
func (s *server) stop(signal os.Signal) error {
	if err := s.cmd.Process.Signal(signal); err != nil {
		return err
	}
	return s.end(promptly)
}

// end waits for the end of a server that was asked to stop.
func (s *server) end(limit time.Duration) error {
	select {
	case <-s.ended:
	case <-time.After(limit):
		// Where it hangs is worth knowing.
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
		<-s.ended
		return fmt.Errorf("no end within %v; it wrote:\n%s", limit, s.stderr)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the server ended with %v; it wrote:\n%s", s.cmd.ProcessState, s.stderr)
	}
	if s.cmd.Args[1] == "dev" {
		if want := "ready " + s.address + "\n"; s.stdout.String() != want {
			return fmt.Errorf("standard output %q, want %q", s.stdout, want)
		}
	}
	return nil
}

// socket is the Workload API of one of dev's workloads.
func (s *server) socket(workload string) string {
	return filepath.Join(s.dir, "workloads", workload+".sock")
}

// shortDir is a new directory whose path leaves room for the name of a unix
// socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until check finds nothing amiss.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	if err := within(patience, check); err != nil {
		t.Fatal(err)
	}
}

func within(limit time.Duration, check func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(limit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-timeout:
			return fmt.Errorf("still so after %v: %w", limit, err)
		}
	}
}

// transcript is what a process wrote.
type transcript struct {
	mu    sync.Mutex // guards what follows
	text  bytes.Buffer
	grown chan struct{} // closed when there is more
}

func newTranscript() *transcript { return &transcript{grown: make(chan struct{})} }

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.grown)
	t.grown = make(chan struct{})
	return t.text.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

var errEnded = errors.New("the process ended")

// await waits for a match, but no longer than for the process.
func (t *transcript) await(want *regexp.Regexp, ended <-chan struct{}) ([]string, error) {
	timeout := time.After(patience)
	for {
		t.mu.Lock()
		match, grown := want.FindStringSubmatch(t.text.String()), t.grown
		t.mu.Unlock()
		if match != nil {
			return match, nil
		}
		select {
		case <-grown:
		case <-ended:
			return nil, errEnded
		case <-timeout:
			return nil, fmt.Errorf("no %q within %v", want, patience)
		}
	}
}
