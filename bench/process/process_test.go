package process_test

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/bench/process"
)

func sh(t *testing.T, script string) process.Config {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	return process.Config{Path: path, Args: []string{"-c", script}, Ready: regexp.MustCompile(`ready (\S+)`)}
}

func TestUsageAndStop(t *testing.T) {
	// The child works, the parent waits.
	p, err := process.Start(t.Context(), sh(t, `(while :; do :; done) & echo ready here; wait`))
	if err != nil {
		t.Fatal(err)
	}
	if p.Matches[1] != "here" {
		t.Errorf("found %q", p.Matches)
	}
	var u process.Usage
	for deadline := time.Now().Add(30 * time.Second); u.CPU < 50*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a child that works took %v", u.CPU)
		}
		if u, err = p.Usage(); err != nil {
			t.Fatal(err)
		}
	}
	if u.RSS == 0 || u.PeakRSS < u.RSS || u.Threads != 2 || u.Descriptors < 6 {
		t.Errorf("usage %+v of two processes", u)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := p.Usage(); err == nil {
		t.Error("a process that has ended uses something")
	}
}

func TestNotReady(t *testing.T) {
	_, err := process.Start(t.Context(), sh(t, `echo cannot listen >&2; exit 3`))
	if !errors.Is(err, process.ErrEnded) || !strings.Contains(err.Error(), "cannot listen") {
		t.Errorf("error %v, want that it ended and what it wrote", err)
	}
	cfg := sh(t, `sleep 60`)
	cfg.Patience = 50 * time.Millisecond
	if _, err := process.Start(t.Context(), cfg); err == nil {
		t.Error("ready without a word")
	}
}
