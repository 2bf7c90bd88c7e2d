package policy_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/interceptors/policy"
)

// forModel is a policy that allows one caller one model.
func forModel(model string) string {
	return strings.Replace(role, "[m]", "["+model+"]", 1) + "bindings: [{role: r, callers: [\"spiffe://td/x\"]}]\n"
}

func allows(ix *policy.Index, model string) bool {
	return ix.Decide(policy.Request{
		Caller: spiffeid.RequireFromString("spiffe://td/x"), Address: netip.MustParseAddr("192.0.2.1"), Action: policy.Predict, Model: model,
	}).Allowed
}

// harness is a store on a file, and what it has told.
type harness struct {
	*policy.Store
	path   string
	log    *bytes.Buffer
	events chan policy.Event
}

func newHarness(t *testing.T, path string) *harness {
	t.Helper()
	h := &harness{path: path, log: &bytes.Buffer{}, events: make(chan policy.Event, 100)}
	s, err := policy.NewStore(path, slog.New(slog.NewTextHandler(h.log, nil)), func(e policy.Event) { h.events <- e })
	if err != nil {
		t.Fatal(err)
	}
	h.Store = s
	return h
}

// run runs the watch until the test ends. No look without being told unless poll
// is given.
func (h *harness) run(t *testing.T, poll time.Duration) {
	t.Helper()
	if poll == 0 {
		poll = time.Hour
	}
	h.SetTimes(20*time.Millisecond, poll)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func (h *harness) next(t *testing.T) policy.Event {
	t.Helper()
	select {
	case e := <-h.events:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told within 10 s")
		panic("unreachable")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace writes as an editor or a deployment does.
func replace(t *testing.T, path, content string) {
	t.Helper()
	write(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestNewStoreRefusesABadFile(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.yaml")
	if _, err := policy.NewStore(path, log, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is absent: %v", err)
	}
	if _, err := policy.NewStore(dir, log, nil); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a directory: %v", err)
	}
	write(t, path, "")
	if _, err := policy.NewStore(path, log, nil); err == nil {
		t.Error("an empty file was taken")
	}
	write(t, path, role+"bindings: [{role: x, callers: [\"spiffe://td/x\"]}]\n")
	if _, err := policy.NewStore(path, log, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a fault that Compile finds does not name the file: %v", err)
	}
	if err := os.Truncate(path, 32<<20+1); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.NewStore(path, log, nil); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a huge file: %v", err)
	}
	write(t, path, forModel("a"))
	if _, err := policy.NewStore(path, nil, nil); err == nil {
		t.Error("a store without a logger")
	}
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, forModel("a"))
	h := newHarness(t, path)
	first := h.Load()
	if !allows(first, "a") || h.Generation() != 1 || len(first.Digest()) != 64 {
		t.Fatalf("generation %d, digest %q", h.Generation(), first.Digest())
	}

	write(t, path, forModel("b"))
	if err := h.Reload(); err != nil {
		t.Fatal(err)
	}
	if e := h.next(t); e.Generation != 2 || e.Err != nil || e.Digest != h.Load().Digest() {
		t.Errorf("told %+v", e)
	}
	if !allows(h.Load(), "b") || allows(h.Load(), "a") || h.Generation() != 2 {
		t.Error("the new policy is not in force")
	}
	if !allows(first, "a") || first.Generation() != 1 {
		t.Error("a policy in use has changed")
	}

	if err := h.Reload(); err != nil || h.Generation() != 2 {
		t.Errorf("a reload without a change: generation %d, %v", h.Generation(), err)
	}

	for name, bad := range map[string]string{"syntax": "roles: [", "rule": "roles: [{name: x}]", "meaning": role + "bindings: [{role: x, callers: [\"spiffe://td/x\"]}]\n", "empty": ""} {
		write(t, path, bad)
		err := h.Reload()
		if err == nil {
			t.Fatalf("%s: taken", name)
		}
		if e := h.next(t); !errors.Is(e.Err, err) || e.Generation != 2 {
			t.Errorf("%s: told %+v", name, e)
		}
		if !allows(h.Load(), "b") || h.Generation() != 2 {
			t.Errorf("%s: the last good policy is not in force", name)
		}
		if !errors.Is(h.LastError(), err) {
			t.Errorf("%s: last error %v, want %v", name, h.LastError(), err)
		}
		if !strings.Contains(h.log.String(), "level=ERROR") {
			t.Errorf("%s: the log is quiet: %s", name, h.log)
		}
		h.log.Reset()
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := h.Reload(); !errors.Is(err, fs.ErrNotExist) || !allows(h.Load(), "b") {
		t.Errorf("a file that went: %v", err)
	}
	if e := h.next(t); !errors.Is(e.Err, fs.ErrNotExist) {
		t.Errorf("a file that went: told %+v", e)
	}
	write(t, path, forModel("b"))
	if err := h.Reload(); err != nil || h.LastError() != nil || h.Generation() != 2 {
		t.Errorf("a file that came back: generation %d, %v, last error %v", h.Generation(), err, h.LastError())
	}
	if e := h.next(t); e.Err != nil || e.Generation != 2 || e.Digest != h.Load().Digest() {
		t.Errorf("a file that came back: told %+v", e)
	}
}

func TestRun(t *testing.T) {
	tests := []struct {
		name   string
		setup  func(t *testing.T, dir string) // leaves dir/policy.yaml for model a
		change func(t *testing.T, dir, model string)
		poll   time.Duration
	}{
		{
			name:   "written in place",
			setup:  func(t *testing.T, dir string) { write(t, filepath.Join(dir, "policy.yaml"), forModel("a")) },
			change: func(t *testing.T, dir, model string) { write(t, filepath.Join(dir, "policy.yaml"), forModel(model)) },
		},
		{
			name:   "replaced by renaming",
			setup:  func(t *testing.T, dir string) { write(t, filepath.Join(dir, "policy.yaml"), forModel("a")) },
			change: func(t *testing.T, dir, model string) { replace(t, filepath.Join(dir, "policy.yaml"), forModel(model)) },
		},
		{
			name: "ConfigMap, whose directory is a link that is swapped",
			setup: func(t *testing.T, dir string) {
				configMap(t, dir, "a")
				if err := os.Symlink(filepath.Join("..data", "policy.yaml"), filepath.Join(dir, "policy.yaml")); err != nil {
					t.Fatal(err)
				}
			},
			change: func(t *testing.T, dir, model string) { configMap(t, dir, model) },
		},
		{
			name: "link to where nothing is told, found by looking",
			setup: func(t *testing.T, dir string) {
				elsewhere := filepath.Join(t.TempDir(), "real.yaml")
				write(t, elsewhere, forModel("a"))
				if err := os.Symlink(elsewhere, filepath.Join(dir, "policy.yaml")); err != nil {
					t.Fatal(err)
				}
			},
			change: func(t *testing.T, dir, model string) {
				elsewhere, err := os.Readlink(filepath.Join(dir, "policy.yaml"))
				if err != nil {
					t.Fatal(err)
				}
				write(t, elsewhere, forModel(model))
			},
			poll: 10 * time.Millisecond,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tt.setup(t, dir)
			h := newHarness(t, filepath.Join(dir, "policy.yaml"))
			h.run(t, tt.poll)
			// The first change may be found by the look with which Run begins.
			for i, model := range []string{"b", "c", "d"} {
				tt.change(t, dir, model)
				if e := h.next(t); e.Err != nil || e.Generation != uint64(i+2) {
					t.Fatalf("told %+v of change %d", e, i+1)
				}
				if !allows(h.Load(), model) || allows(h.Load(), "a") {
					t.Errorf("change %d is not in force", i+1)
				}
			}
		})
	}
}

// configMap publishes a version as the kubelet does: a directory of its own, to
// which the link ..data is moved by renaming.
func configMap(t *testing.T, dir, model string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, ".."+model), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, ".."+model, "policy.yaml"), forModel(model))
	if err := os.Symlink(".."+model, filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

func TestRunTellsOfABadFileOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, forModel("a"))
	h := newHarness(t, path)
	h.run(t, time.Millisecond) // looks all the time
	replace(t, path, "roles: [")
	if e := h.next(t); e.Err == nil || e.Generation != 1 {
		t.Fatalf("told %+v", e)
	}
	replace(t, path, forModel("b")) // whatever was told more than once lies before this
	if e := h.next(t); e.Err != nil || e.Generation != 2 {
		t.Errorf("told %+v", e)
	}
	if err := h.LastError(); err != nil {
		t.Errorf("last error %v", err)
	}
}

// The first half of a policy can be a valid one that blocks nobody. It must
// never be in force while the rest is being written.
func TestLookWaitsUntilTheFileHoldsStill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	half := forModel("b")
	whole := half + "blocked: [{callers: [\"spiffe://td/y\"], reason: stolen}]\n"
	write(t, path, forModel("a"))
	h := newHarness(t, path)
	look := h.Look()
	steps := []struct {
		write      string
		again      bool
		generation uint64
	}{
		{forModel("a"), false, 1},
		{"", true, 1},
		{half, true, 1},
		{whole, true, 1},
		{whole, false, 2},
		{whole, false, 2},
		{"", true, 2},
		{whole, false, 2},
		{"", true, 2},
		{"", false, 2}, // refused and told
		{"", false, 2},
	}
	for i, step := range steps {
		write(t, path, step.write)
		if again := look(t.Context()); again != step.again || h.Generation() != step.generation {
			t.Fatalf("step %d: again %v at generation %d, want %v at %d", i, again, h.Generation(), step.again, step.generation)
		}
	}
	if e := h.next(t); e.Generation != 2 || e.Err != nil {
		t.Errorf("told %+v", e)
	}
	if e := h.next(t); e.Generation != 2 || e.Err == nil {
		t.Errorf("told %+v", e)
	}
	if len(h.events) != 0 {
		t.Errorf("told %+v besides", <-h.events)
	}
}

// TestRunWithoutADirectory has the directory gone when the watch begins: the
// policy goes on, and the file is found when it is back.
func TestRunWithoutADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "policy.yaml")
	write(t, path, forModel("a"))
	h := newHarness(t, path)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	h.run(t, 50*time.Millisecond)
	if e := h.next(t); e.Generation != 1 || e.Err == nil {
		t.Errorf("told %+v", e)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, forModel("b"))
	if e := h.next(t); e.Generation != 2 || e.Err != nil {
		t.Errorf("told %+v", e)
	}
}

func TestStoreConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, forModel("a"))
	s, err := policy.NewStore(path, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if ix := s.Load(); allows(ix, "a") == allows(ix, "b") {
					t.Error("neither or both policies in force")
				}
			}
		})
		wg.Go(func() {
			for range 10 {
				if err := s.Reload(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, model := range []string{"b", "a", "b"} {
		replace(t, path, forModel(model))
		if err := s.Reload(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if !allows(s.Load(), "b") {
		t.Error("the last policy is not in force")
	}
}
