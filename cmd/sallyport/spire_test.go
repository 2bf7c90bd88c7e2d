//go:build spire && linux

package main_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit/audittest"
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// TestSPIRE runs Sallyport and its callers under a real SPIRE: two federated
// trust domains, each with a server and an agent. `make test-spire` builds what
// it needs. What was done, seen and how long it took is printed; a run of it is
// in docs/spire.md.
func TestSPIRE(t *testing.T) {
	w := newSPIREWorld(t)
	for _, scene := range []struct {
		title string
		play  func(*testing.T)
	}{
		{"the path", w.path},
		{"rotation", w.rotation},
		{"an entry is deleted", w.entryDeleted},
		{"federation is taken away", w.federation},
		{"the agent is killed", w.agentKilled},
		{"on behalf of a user", w.user},
		{"the end", w.end},
	} {
		w.title(scene.title)
		if scene.play(t); t.Failed() {
			return // the scenes build on each other
		}
	}
}

// spireWorld is what the scenes play in.
type spireWorld struct {
	began         time.Time
	scenes        int
	dir           string
	home, partner *trustDomain
	binaries      *binaries

	// Set by path:
	server  *server
	entries map[string]string // of workloads by path
	clinic  string            // the command line as /clinic/desk
	labdesk string            // and as /lab/desk of the partner

	// Set by rotation:
	triage *workload // a client with load, under /clinic/triage
}

// spireConfig is Sallyport's configuration.
const spireConfig = `
listen: 127.0.0.1:0
identity:
  workload_api: unix://%s
  start_timeout: 60s
  trust_domains: [sallyport.test, partner.test]
  users: {jwt_svid: {trust_domains: [sallyport.test], audiences: [sallyport]}}
policy:
  file: policy.yaml
models:
  directory: models
audit:
  directory: audit
  digest_key: {file: audit.key}
  signing_key: {file: audit-signing.key}
admin:
  listen: 127.0.0.1:0
`

// spirePolicy has no role for /intern, and one for /portal on behalf of /doctor
// only.
const spirePolicy = generous + `  - role: everything
    callers: ["spiffe://partner.test/lab/*"]
  - role: everything
    callers: ["spiffe://sallyport.test/portal"]
    user: {issuer: "spiffe://sallyport.test", subjects: ["spiffe://sallyport.test/doctor"]}
`

// shortLife is the life of the SVIDs in sallyport.test, in seconds. SPIRE dates
// them 10 s back and renews them when about half of the whole is over: 10 s after
// it issued them, 20 s before they end.
const shortLife = 30

func newSPIREWorld(t *testing.T) *spireWorld {
	t.Helper()
	w := &spireWorld{began: time.Now(), dir: shortDir(t), entries: map[string]string{}}
	write(t, w.dir+"/sallyport.yaml", fmt.Sprintf(spireConfig, w.dir+"/sallyport/agent.sock"))
	write(t, w.dir+"/policy.yaml", spirePolicy)
	write(t, w.dir+"/audit.key", strings.Repeat("k", 32))
	write(t, w.dir+"/audit-signing.key", audittest.Private)
	for from, to := range map[string]string{"models": "models", "data/breast-cancer-holdout.csv": "rows.csv"} {
		target, err := filepath.Abs("../../examples/" + from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(w.dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	w.binaries = buildBinaries(t, w.dir)
	return w
}

// title begins a scene in the transcript.
func (w *spireWorld) title(text string) {
	w.scenes++
	_, _ = fmt.Fprintf(os.Stdout, "\n== %d. %s\n", w.scenes, text)
}

// say adds a line to the transcript.
func (w *spireWorld) say(format string, a ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, a...), w.dir, "$DIR")
	_, _ = fmt.Fprintf(os.Stdout, "%6.1f s  %s\n", time.Since(w.began).Seconds(), text)
}

// ctl runs spire-server's command line and puts it into the transcript.
func (w *spireWorld) ctl(t *testing.T, d *trustDomain, args ...string) string {
	t.Helper()
	w.say("%s: spire-server %s", d.name, strings.Join(args, " "))
	return d.ctl(t, args...)
}

// register is trustDomain.register, with a line in the transcript.
func (w *spireWorld) register(t *testing.T, d *trustDomain, path, binary string, args ...string) {
	t.Helper()
	w.entries[path] = d.register(t, path, binary, args...)
	w.say("%s: entry %s for %s %s", d.name, d.id(path), filepath.Base(binary), strings.Join(args, " "))
}

// cli runs `sallyport predict` as the workload that the binary is, and returns
// its exit code, the last line that it wrote for people, and how long it took.
func (w *spireWorld) cli(t *testing.T, binary string, d *trustDomain) (code int, said string, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "predict", breastCancer, "--input", w.dir+"/rows.csv", "--output", "csv",
		"--server", w.server.address, "--socket", d.socket(), "--timeout", "4s")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	began := time.Now()
	err := cmd.Run()
	took = since(began)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), strings.TrimSpace(stderr.String()), took
}

// expect runs cli until it ends with the code and says what it should; SPIRE
// needs a moment until what it was told has reached the agent.
func (w *spireWorld) expect(t *testing.T, binary string, d *trustDomain, code int, saying string) {
	t.Helper()
	want := regexp.MustCompile(saying)
	var said string
	var took time.Duration
	eventually(t, func() error {
		var got int
		got, said, took = w.cli(t, binary, d)
		if got != code || !want.MatchString(said) {
			return fmt.Errorf("%s predict: exit code %d, want %d and %q; it said:\n%s", filepath.Base(binary), got, code, saying, said)
		}
		return nil
	})
	w.say("%s: sallyport predict: exit code %d in %v: %s", filepath.Base(binary), code, took, want.FindString(said))
}

// identityLine is Sallyport's word of an SVID that it got.
type identityLine struct {
	at, expires time.Time
	serial      string
	bundles     int
}

var identityReceived = regexp.MustCompile(`(?m)^time=(\S+) level=INFO msg="identity received" id=\S+ serial=(\S+) expires=(\S+) bundles=(\d+)$`)

// identities are all that Sallyport got so far.
func (w *spireWorld) identities() []identityLine {
	var all []identityLine
	for _, m := range identityReceived.FindAllStringSubmatch(w.server.stderr.String(), -1) {
		// What the regular expression took from our own log can be parsed.
		at, _ := time.Parse(time.RFC3339Nano, m[1])
		expires, _ := time.Parse(time.RFC3339Nano, m[3])
		bundles, _ := strconv.Atoi(m[4])
		all = append(all, identityLine{at, expires, m[2], bundles})
	}
	return all
}

// comeBack is how soon Sallyport must have what the agent has for it: it asks an
// agent that was away each 5 s, however long that was.
const comeBack = 12 * time.Second

// awaitIdentity waits for an update after the time that fits.
func (w *spireWorld) awaitIdentity(t *testing.T, after time.Time, fits func(identityLine) bool) identityLine {
	t.Helper()
	var found identityLine
	err := within(comeBack, func() error {
		all := w.identities()
		for _, one := range all {
			if one.at.After(after) && fits(one) {
				found = one
				return nil
			}
		}
		return fmt.Errorf("no such update of the server's identity since %v: %v", after.Format(time.TimeOnly), all)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// serials is how many different SVIDs Sallyport has had.
func (w *spireWorld) serials() int {
	seen := map[string]bool{}
	for _, one := range w.identities() {
		seen[one.serial] = true
	}
	return len(seen)
}

// serverSays waits for a line in Sallyport's log after the time.
func (w *spireWorld) serverSays(t *testing.T, after time.Time, pattern string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^time=(\S+) (` + pattern + `)`)
	eventually(t, func() error {
		for _, m := range line.FindAllStringSubmatch(w.server.stderr.String(), -1) {
			if at, err := time.Parse(time.RFC3339Nano, m[1]); err == nil && at.After(after) {
				w.say("sallyport, after %v: %s", at.Sub(after).Round(10*time.Millisecond), m[2])
				return nil
			}
		}
		return fmt.Errorf("no line %q in the log since %v", pattern, after)
	})
}

// ready demands what /readyz says, at once or soon.
func (w *spireWorld) ready(t *testing.T, code int, saying string) {
	t.Helper()
	want := regexp.MustCompile(`(?m)` + saying)
	var body string
	eventually(t, func() error {
		var got int
		var err error
		if got, body, err = w.server.get(t.Context(), "/readyz"); err != nil {
			return err
		}
		if got != code || !want.MatchString(body) {
			return fmt.Errorf("/readyz: %d, want %d and %q:\n%s", got, code, saying, body)
		}
		return nil
	})
	w.say("/readyz: %d %s: %s", code, http.StatusText(code), want.FindString(body))
}

// unharmed demands that the load has gone on, without a failure.
func (w *spireWorld) unharmed(t *testing.T, rotations int) {
	t.Helper()
	l := w.triage.load(t)
	w.say("triage: %d calls, %d failed; %d batches on the stream, %d failed, %d lost, %d answered twice; %d new SVIDs, the stream moved %d times",
		l.Calls, l.CallsFailed, l.Batches, l.BatchesFailed, l.BatchesLost, l.BatchesTwice, l.Rotations, l.Moves)
	if l.CallsFailed+l.BatchesFailed+l.BatchesLost+l.BatchesTwice > 0 || l.Calls == 0 || l.Batches == 0 {
		t.Errorf("the load came to harm: %+v", l)
	}
	if l.Rotations < rotations || l.Moves < rotations {
		t.Errorf("%d new SVIDs and %d moves of the stream, want at least %d", l.Rotations, l.Moves, rotations)
	}
}

// startSallyport runs `sallyport serve` from a binary of its own.
func (w *spireWorld) startSallyport(t *testing.T, binary string) {
	t.Helper()
	p := &program{
		cmd: exec.Command(binary, "serve", "--config", w.dir+"/sallyport.yaml"), stdout: newTranscript(), stderr: newTranscript(),
		ended: make(chan struct{}),
	}
	p.cmd.Env = append(os.Environ(), onnx.LibraryEnv+"="+onnxtest.Library(t))
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.start(t)
	found, err := p.stderr.await(serving, p.ended)
	if err != nil {
		t.Fatalf("sallyport serve: %v; it wrote:\n%s", err, p.stderr)
	}
	w.server = &server{dir: w.dir, address: found[1], admin: found[2], cmd: p.cmd, stdout: p.stdout, stderr: p.stderr, ended: p.ended}
}

// end stops Sallyport, which must be the process that was started, in order.
func (w *spireWorld) end(t *testing.T) {
	if err := w.server.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.say("sallyport, %d SVIDs later, after SIGTERM: %v", w.serials(), w.server.cmd.ProcessState)
	out, err := exec.Command(w.binaries.cli, "audit", "verify", w.dir+"/audit").CombinedOutput()
	if err != nil {
		t.Fatalf("audit verify: %v\n%s", err, out)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	w.say("sallyport audit verify: %s", first)
}
