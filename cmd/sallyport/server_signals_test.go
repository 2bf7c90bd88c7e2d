package main_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// says waits until the server has logged a line.
func (s *server) says(t *testing.T, line string) {
	t.Helper()
	if _, err := s.stderr.await(regexp.MustCompile(line), s.ended); err != nil {
		t.Fatalf("%q: %v; it wrote:\n%s", line, err, s.stderr)
	}
}

// Who drains says so; a second signal ends the drain, not the record.
func TestSecondSignal(t *testing.T) {
	s := startServe(t, newSite(t, "bounds: {drain_timeout: 3600s}\n"))
	stream, _, err := s.as(t, "clinic").open(t.Context(), breastCancer)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if answer, err := stream.Recv(); answer.GetDraining() == nil {
		t.Fatalf("stream: %v, %v", answer, err)
	}
	s.says(t, `msg=draining timeout=1h0m0s`)
	code, body, err := s.get(t.Context(), "/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "draining: failing: the server is stopping\n") {
		t.Errorf("/readyz: %d, %q, %v", code, body, err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.says(t, "no more draining")
	s.stopped(t)
	if len(s.calls(t)) != 1 {
		t.Errorf("calls on record: %v", s.calls(t))
	}
}

// No signal is lost between the first and the moment at which a second is looked for.
func TestTwoSignalsAtOnce(t *testing.T) {
	s := startServe(t, newSite(t, "bounds: {drain_timeout: 3600s}\n"))
	if _, _, err := s.as(t, "clinic").open(t.Context(), breastCancer); err != nil {
		t.Fatal(err)
	}
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		if err := s.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	s.says(t, "no more draining")
	s.stopped(t)
	if len(s.calls(t)) != 1 {
		t.Errorf("calls on record: %v", s.calls(t))
	}
}

// Each SIGHUP is answered with a line about the policy and one about the models.
func TestHangupIsAnswered(t *testing.T) {
	dir := newSite(t, "")
	s := startServe(t, dir)
	for _, step := range []struct{ policy, want string }{
		{generous, `SIGHUP: policy" outcome=unchanged generation=1`},
		{generous + "# changed\n", `SIGHUP: policy" outcome=reloaded generation=2`},
		{"roles: [\n", `SIGHUP: policy" outcome=refused generation=2`},
	} {
		replace(t, dir+"/policy.yaml", step.policy)
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.says(t, step.want+`\n.*SIGHUP: models reloaded" versions=4 failures=0`)
	}
	_, body, err := s.get(t.Context(), "/readyz")
	if !strings.Contains(body, "policy: ok: generation 2, stale: ") || !strings.Contains(body, "models: ok: 3 models, 4 versions, 0 failures\n") {
		t.Errorf("/readyz: %q, %v", body, err)
	}
	// The way back from a policy that was refused is on record, too.
	replace(t, dir+"/policy.yaml", generous+"# changed\n")
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		var events []string
		for _, r := range s.records(t) {
			if event, found := strings.CutPrefix(r.GetDetail(), "policy "); found {
				events = append(events, event[:len("generation 1")])
			}
		}
		if diff := cmp.Diff([]string{"generation 1", "generation 2", "refused, gen", "generation 2"}, events); diff != "" {
			return errors.New(diff)
		}
		return nil
	})

	if err := os.Remove(dir + "/models"); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.says(t, `SIGHUP: models not reloaded" error=.*no such file`)
}

// What a stop cannot put on record makes it fail.
func TestLostRecordsAreAFailure(t *testing.T) {
	dir := newSite(t, "")
	s := startServe(t, dir)
	s.says(t, `audit log: a new one was begun`)
	if err := os.Rename(dir+"/audit", dir+"/away"); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.end(patience); err == nil || s.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v: %v", s.cmd.ProcessState, err)
	}
	s.says(t, `sallyport: close audit log: `)
}

// What is wrong with a command line is found before anything is written.
func TestServerUsage(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"a command that is none", `unknown command "chekc" for "sallyport"`, []string{"chekc"}},
		{"no port", `--listen or --admin:\d+:.*listen`, []string{"dev", "--dir", "dev", "--listen", "127.0.0.1"}},
		{"metrics for everybody", `--listen or --admin:\d+:.*loopback`, []string{"dev", "--dir", "dev", "--admin", "0.0.0.0:0"}},
		{"a long path", `--dir: the path of socket .* more than`, []string{"dev", "--dir", strings.Repeat("d", 100)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sallyport", tt.args...)
			cmd.Dir = t.TempDir()
			said, _ := cmd.CombinedOutput() // ProcessState has the error
			if code := cmd.ProcessState.ExitCode(); code != 2 || !regexp.MustCompile(tt.want).Match(said) {
				t.Errorf("exit code %d, it said %q", code, said)
			}
			if entries, err := os.ReadDir(cmd.Dir); err != nil || len(entries) > 0 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}
