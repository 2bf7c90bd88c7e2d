package model_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/server/model"
)

// changes gathers what OnChange is told.
type changes struct{ all []model.Change }

func (c *changes) add(change model.Change) { c.all = append(c.all, change) }

func (c *changes) expect(t *testing.T, want ...model.Change) {
	t.Helper()
	if diff := cmp.Diff(want, c.all, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(model.Change{}, "Err")); diff != "" {
		t.Errorf("changes: %s", diff)
	}
	c.all = nil
}

func loaded(name string, version int64, artifact []byte) model.Change {
	return model.Change{Kind: model.Loaded, Name: name, Version: version, Digest: digest(artifact)}
}

func TestReload(t *testing.T) {
	d, l, c := newDir(t), &loader{}, &changes{}
	d.put("a/1/model.onnx", artifact("a1"))
	r := d.open(l, model.Config{OnChange: c.add})
	reload := func() { t.Helper(); d.must(r.Reload(t.Context())) }
	c.expect(t, loaded("a", 1, artifact("a1")))

	reload()
	c.expect(t)
	expect(t, r, "a/1*", "")

	// Add a version and a model.
	d.put("a/2/model.onnx", artifact("a2"))
	d.put("b/1/model.onnx", artifact("b1"))
	reload()
	c.expect(t, loaded("a", 2, artifact("a2")), loaded("b", 1, artifact("b1")))
	expect(t, r, "a/1 a/2* b/1*", "")

	// The same bytes in a new file are no change.
	loads := l.loads.Load()
	d.put("a/2/model.onnx", artifact("a2"))
	reload()
	c.expect(t)
	if l.loads.Load() != loads {
		t.Error("the same bytes were loaded again")
	}

	// Replace one.
	d.put("a/2/model.onnx", artifact("a2 again"))
	reload()
	c.expect(t, loaded("a", 2, artifact("a2 again")))

	// What replaces it cannot be loaded: the last good one stays, told once.
	d.put("a/2/model.onnx", artifact("unloadable"))
	reload()
	reload()
	c.expect(t, model.Change{Kind: model.Failed, Path: "a/2/model.onnx"})
	expect(t, r, "a/1 a/2* b/1*", "a/2/model.onnx")
	v, err := r.Acquire("a", 2)
	d.must(err)
	if v.Digest != digest(artifact("a2 again")) {
		t.Error("not the last good one")
	}
	v.Release()

	// Other news about the same file is told; then it is repaired.
	d.put("a/2/model.onnx", []byte("half"))
	reload()
	c.expect(t, model.Change{Kind: model.Failed, Path: "a/2/model.onnx"})
	d.put("a/2/model.onnx", artifact("a3"))
	reload()
	c.expect(t, loaded("a", 2, artifact("a3")))
	expect(t, r, "a/1 a/2* b/1*", "")

	// Remove a version, and a model.
	d.remove("a/2")
	d.remove("b")
	reload()
	c.expect(t, model.Change{Kind: model.Removed, Name: "a", Version: 2, Digest: digest(artifact("a3"))},
		model.Change{Kind: model.Removed, Name: "b", Version: 1, Digest: digest(artifact("b1"))})
	expect(t, r, "a/1*", "")

	// An artefact that is gone is not served, though its directory stays.
	d.remove("a/1/model.onnx")
	reload()
	expect(t, r, "", "a/1/model.onnx")
}

func TestReloadManifest(t *testing.T) {
	d, l, c := newDir(t), &loader{}, &changes{}
	d.put("a/1/model.onnx", artifact("a"))
	r := d.open(l, model.Config{OnChange: c.add})
	c.expect(t, loaded("a", 1, artifact("a")))
	maxRows := func() int64 {
		m, err := r.Get("a")
		d.must(err)
		return m.Versions[0].Contract.MaxRows()
	}
	for _, step := range []struct {
		manifest string // empty to remove it
		maxRows  int64
		failures string
		change   model.Change
	}{
		{"max_rows: 5", 5, "", loaded("a", 1, artifact("a"))},
		{"max_rows: -5", 5, "a/model.yaml", model.Change{Kind: model.Failed, Path: "a/model.yaml"}},
		{"max_rows: 6\noutputs: [none]", 5, "a/1/model.onnx", model.Change{Kind: model.Failed, Path: "a/1/model.onnx"}},
		{"max_rows: 7", 7, "", loaded("a", 1, artifact("a"))},
		{"", 7, "a/model.yaml", model.Change{Kind: model.Failed, Path: "a/model.yaml"}},
		{"{}", 4096, "", loaded("a", 1, artifact("a"))},
	} {
		if step.manifest == "" {
			d.remove("a/model.yaml")
		} else {
			d.put("a/model.yaml", []byte(step.manifest))
		}
		d.must(r.Reload(t.Context()))
		if got := maxRows(); got != step.maxRows {
			t.Errorf("%q: %d rows, want %d", step.manifest, got, step.maxRows)
		}
		c.expect(t, step.change)
		expect(t, r, "a/1*", step.failures)
	}
	if n := l.loads.Load(); n != 1 {
		t.Errorf("%d loads for one artefact", n)
	}

	// One that says nothing can go.
	d.remove("a/model.yaml")
	d.must(r.Reload(t.Context()))
	expect(t, r, "a/1*", "")
}

// A contract that cannot be read, or goes, does not make a model that has none.
func TestReloadWithoutManifest(t *testing.T) {
	d := newDir(t)
	d.put("bad/1/model.onnx", artifact("a"))
	d.put("bad/model.yaml", []byte("max_rows: -5"))
	d.put("misnamed/1/model.onnx", artifact("b"))
	d.put("misnamed/model.yml", []byte("max_rows: 5"))
	r := d.open(&loader{}, model.Config{})
	expect(t, r, "", "bad/1/model.onnx bad/model.yaml misnamed/1/model.onnx misnamed/model.yaml")
	if err := r.Failures()["misnamed/model.yaml"]; !strings.Contains(err.Error(), "model.yml") {
		t.Errorf("got %v", err)
	}

	d.remove("bad/model.yaml")
	d.put("misnamed/model.yaml", []byte("max_rows: 5"))
	d.must(r.Reload(t.Context()))
	expect(t, r, "misnamed/1*", "bad/1/model.onnx bad/model.yaml")

	d.put("bad/model.yaml", []byte("{}"))
	d.must(r.Reload(t.Context()))
	expect(t, r, "bad/1* misnamed/1*", "")
}

// A new artefact is not served under a manifest that does not fit, nor an old
// model under a link that now leads away.
func TestReloadKeepsLastGood(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a"))
	d.put("b/1/model.onnx", artifact("b"))
	r := d.open(&loader{}, model.Config{})
	d.put("a/1/model.onnx", artifact("a, new"))
	d.put("a/model.yaml", []byte("outputs: [none]"))
	d.remove("b")
	d.link("/", "b")
	d.must(r.Reload(t.Context()))
	expect(t, r, "a/1* b/1*", "a/1/model.onnx b")
	v, err := r.Acquire("a", 0)
	d.must(err)
	defer v.Release()
	if v.Digest != digest(artifact("a")) {
		t.Error("not the last good one")
	}
}

// A file written twice within a tick of the clock has one time and one size.
func TestReloadSeesChangeWithinOneTick(t *testing.T) {
	d := newDir(t)
	path, now := "a/1/model.onnx", time.Now().Add(time.Hour)
	d.putAt(path, artifact("one"), now)
	r := d.open(&loader{}, model.Config{})
	d.must(os.WriteFile(filepath.Join(d.path, path), artifact("two"), 0o600))
	d.must(os.Chtimes(filepath.Join(d.path, path), now, now))
	d.must(r.Reload(t.Context()))
	v, err := r.Acquire("a", 1)
	d.must(err)
	defer v.Release()
	if v.Digest != digest(artifact("two")) {
		t.Error("the change was not seen")
	}
}

func TestReloadTriesAgain(t *testing.T) {
	d, l := newDir(t), &loader{}
	l.fault.Store(new(errors.New("out of memory")))
	d.put("a/1/model.onnx", artifact("a"))
	r := d.open(l, model.Config{})
	expect(t, r, "", "a/1/model.onnx")
	l.fault.Store(nil)
	d.must(r.Reload(t.Context()))
	expect(t, r, "a/1*", "")
}

func TestReloadWithoutDirectory(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a"))
	r := d.open(&loader{}, model.Config{})
	d.must(os.RemoveAll(d.path))
	if err := r.Reload(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	expect(t, r, "a/1*", "")
}

// A version that is on loan runs on after it was replaced or removed, and is
// closed after the last loan.
func TestLoanOutlivesModel(t *testing.T) {
	for name, change := range map[string]func(d dir){
		"replaced": func(d dir) { d.put("a/1/model.onnx", artifact("new")) },
		"removed":  func(d dir) { d.remove("a") },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			d.put("a/1/model.onnx", artifact("old"))
			r := d.open(&loader{}, model.Config{})
			first, err := r.Acquire("a", 1)
			d.must(err)
			second, err := r.Acquire("a", 1)
			d.must(err)
			change(d)
			d.must(r.Reload(t.Context()))
			first.Release()
			if _, err := second.Runner.Run(t.Context(), nil, nil); err != nil {
				t.Error(err)
			}
			second.Release()
			<-second.Runner.(*runner).closed
		})
	}
}

func TestCloseWaitsForLoans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDir(t)
		d.put("a/1/model.onnx", artifact("a"))
		r := d.open(&loader{}, model.Config{})
		v, err := r.Acquire("a", 1)
		d.must(err)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closed under a loan: %v", err)
		}
		if _, err := v.Runner.Run(t.Context(), nil, nil); err != nil {
			t.Error(err)
		}
		v.Release()
		d.must(r.Close(t.Context()))
		<-v.Runner.(*runner).closed

		if _, err := r.Acquire("a", 1); !errors.Is(err, model.ErrNotReady) {
			t.Errorf("got %v", err)
		}
		if err := r.Reload(t.Context()); err == nil {
			t.Error("a closed repository was loaded")
		}
	})
}

// Callers run a model while it is replaced, removed and added again: no run
// after its runner's close, no close in a run, no runner left open.
func TestConcurrentReload(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a"))
	r := d.open(&loader{}, model.Config{})
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				v, err := r.Acquire("a", 0)
				if errors.Is(err, model.ErrNotFound) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := v.Runner.Run(t.Context(), nil, nil); err != nil {
					t.Error(err)
				}
				v.Release()
			}
		})
	}
	for i := range 60 {
		switch i % 3 {
		case 0, 1:
			d.put("a/1/model.onnx", artifact(strings.Repeat("x", i)))
		case 2:
			d.remove("a")
		}
		if err := r.Reload(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	callers.Wait()
}

func TestReleaseTwice(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a"))
	r := d.open(&loader{}, model.Config{})
	v, err := r.Acquire("a", 1)
	d.must(err)
	d.remove("a")
	d.must(r.Reload(t.Context()))
	v.Release()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	v.Release()
}

// run runs the repository until the test ends and returns what changes.
func run(t *testing.T, d dir, poll time.Duration) <-chan model.Change {
	t.Helper()
	c := make(chan model.Change, 100)
	r := d.open(&loader{}, model.Config{PollInterval: poll, OnChange: func(change model.Change) { c <- change }})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return c
}

func await(t *testing.T, c <-chan model.Change, want model.Change) {
	t.Helper()
	got := <-c
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(model.Change{}, "Err")); diff != "" {
		t.Fatalf("change: %s%v", diff, got.Err)
	}
}

// Within an hour's interval only notifications can tell.
func TestRunIsNotified(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a"))
	c := run(t, d, time.Hour)
	await(t, c, loaded("a", 1, artifact("a")))

	d.put(".b/1/model.onnx", artifact("b1"))
	d.must(os.Rename(filepath.Join(d.path, ".b"), filepath.Join(d.path, "b")))
	await(t, c, loaded("b", 1, artifact("b1")))
	d.put("b/.2/model.onnx", artifact("b2"))
	d.must(os.Rename(filepath.Join(d.path, "b/.2"), filepath.Join(d.path, "b/2")))
	await(t, c, loaded("b", 2, artifact("b2")))
	f, err := os.OpenFile(filepath.Join(d.path, "b/2/model.onnx"), os.O_WRONLY, 0)
	d.must(err)
	_, err = f.Write(artifact("b3"))
	d.must(errors.Join(err, f.Close()))
	await(t, c, loaded("b", 2, artifact("b3")))
	d.put("b/model.yaml", []byte("max_rows: 0 # of no effect\ndescription: b"))
	await(t, c, loaded("b", 1, artifact("b1")))
	await(t, c, loaded("b", 2, artifact("b3")))
	d.remove("b")
	await(t, c, model.Change{Kind: model.Removed, Name: "b", Version: 1, Digest: digest(artifact("b1"))})
}

// Behind a link into a directory that is not watched only looking helps.
func TestRunPolls(t *testing.T) {
	d := newDir(t)
	d.put(".store/model.onnx", artifact("one"))
	d.put("a/1/x", nil)
	d.link("../../.store/model.onnx", "a/1/model.onnx")
	c := run(t, d, 20*time.Millisecond)
	await(t, c, loaded("a", 1, artifact("one")))
	d.put(".store/model.onnx", artifact("two"))
	await(t, c, loaded("a", 1, artifact("two")))
	d.must(os.Rename(d.path, d.path+".away"))
	await(t, c, model.Change{Kind: model.Failed, Path: "."})
	d.must(os.Rename(d.path+".away", d.path))
	d.put(".store/model.onnx", artifact("three"))
	await(t, c, loaded("a", 1, artifact("three")))
}

func BenchmarkAcquire(b *testing.B) {
	d := newDir(b)
	d.put("a/1/model.onnx", artifact("a"))
	r := d.open(&loader{}, model.Config{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			v, err := r.Acquire("a", 0)
			if err != nil {
				b.Error(err)
				return
			}
			v.Release()
		}
	})
}
