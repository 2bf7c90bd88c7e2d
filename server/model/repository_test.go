package model_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/server/model"
)

// loader makes runners of input x [any, 2], and knows which are open.
type loader struct {
	loads atomic.Int64
	open  sync.WaitGroup
	fault atomic.Pointer[error] // what Load returns, if it is set
	then  func()                // called after each load, if it is set
}

type runner struct {
	sig    *model.Signature
	loader *loader
	busy   atomic.Int64
	closed chan struct{}
}

func (l *loader) Load(artifact []byte) (model.Runner, error) {
	l.loads.Add(1)
	if err := l.fault.Load(); err != nil {
		return nil, *err
	}
	if strings.Contains(string(artifact), "unloadable") {
		return nil, errors.New("the graph is wrong")
	}
	if l.then != nil {
		defer l.then()
	}
	l.open.Add(1)
	return &runner{sig: signature(model.Float32, mat), loader: l, closed: make(chan struct{})}, nil
}

func (r *runner) Signature() *model.Signature { return r.sig }

func (r *runner) Run(_ context.Context, _ map[string]*model.Tensor, outputs []string) (map[string]*model.Tensor, error) {
	r.busy.Add(1)
	defer r.busy.Add(-1)
	select {
	case <-r.closed:
		return nil, errors.New("run after close")
	default:
	}
	result := map[string]*model.Tensor{}
	for _, name := range outputs {
		result[name] = nil
	}
	return result, nil
}

func (r *runner) Close() error {
	if r.busy.Load() != 0 {
		panic("closed in a run")
	}
	close(r.closed)
	r.loader.open.Done()
	return nil
}

// dir is a model repository on disk.
type dir struct {
	testing.TB
	path string
}

func newDir(tb testing.TB) dir {
	return dir{tb, filepath.Join(tb.TempDir(), "models")}
}

// put writes a file so that it appears whole and, to a stamp, settled.
func (d dir) put(path string, content []byte) {
	d.Helper()
	d.putAt(path, content, time.Now().Add(-time.Hour))
}

func (d dir) putAt(path string, content []byte, modified time.Time) {
	d.Helper()
	path = filepath.Join(d.path, path)
	part := filepath.Join(filepath.Dir(path), ".part")
	d.must(os.MkdirAll(filepath.Dir(path), 0o700))
	d.must(os.WriteFile(part, content, 0o600))
	d.must(os.Chtimes(part, modified, modified))
	d.must(os.Rename(part, path))
}

func (d dir) remove(path string) {
	d.Helper()
	d.must(os.RemoveAll(filepath.Join(d.path, path)))
}

func (d dir) link(target, path string) {
	d.Helper()
	d.must(os.MkdirAll(filepath.Dir(filepath.Join(d.path, path)), 0o700))
	d.must(os.Symlink(target, filepath.Join(d.path, path)))
}

func (d dir) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// open opens d; when the test ends every runner must be closed.
func (d dir) open(l *loader, cfg model.Config) *model.Repository {
	d.Helper()
	cfg.Directory = d.path
	r, err := model.Open(d.Context(), cfg, l, slog.New(slog.DiscardHandler))
	d.must(err)
	d.Cleanup(func() {
		d.must(r.Close(context.Background()))
		l.open.Wait()
	})
	return r
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// served is what a repository serves, as "name/version", with a star at the
// default, and what it could not.
func served(r *model.Repository) (versions, failures []string) {
	for _, m := range r.List() {
		for _, v := range m.Versions {
			s := fmt.Sprintf("%s/%d", v.Name, v.Number)
			if v.Number == m.Default {
				s += "*"
			}
			versions = append(versions, s)
		}
	}
	for path := range r.Failures() {
		failures = append(failures, path)
	}
	slices.Sort(failures)
	return versions, failures
}

func expect(t *testing.T, r *model.Repository, versions, failures string) {
	t.Helper()
	gotVersions, gotFailures := served(r)
	if diff := cmp.Diff(strings.Fields(versions), gotVersions); diff != "" && len(gotVersions)+len(versions) > 0 {
		t.Errorf("served: %s", diff)
	}
	if diff := cmp.Diff(strings.Fields(failures), gotFailures); diff != "" && len(gotFailures)+len(failures) > 0 {
		t.Errorf("failures: %s\n%v", diff, r.Failures())
	}
}

func TestOpen(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a1"))
	d.put("a/2/model.onnx", artifact("a2"))
	d.put("a/10/model.onnx", artifact("a10"))
	d.put("pinned/model.yaml", []byte("default_version: 1\nmax_rows: 7\ndescription: pinned\n"))
	d.put("pinned/1/model.onnx", artifact("p1"))
	d.put("pinned/2/model.onnx", artifact("p2"))
	d.put("pinned/README.md", []byte("hello"))
	d.put("pinned/configs/x", []byte("hello"))
	d.put(".incoming/1/model.onnx", artifact("i"))
	d.put("lost+found/x", nil)
	d.put("README.md", []byte("hello"))
	r := d.open(&loader{}, model.Config{})
	expect(t, r, "a/1 a/2 a/10* pinned/1* pinned/2", "")

	for _, tt := range []struct {
		name   string
		number int64
		want   []byte
	}{
		{"a", 0, artifact("a10")}, {"a", 10, artifact("a10")}, {"a", 2, artifact("a2")}, {"pinned", 0, artifact("p1")},
	} {
		v, err := r.Acquire(tt.name, tt.number)
		d.must(err)
		if v.Digest != digest(tt.want) {
			t.Errorf("%s/%d: digest %s is not that of the artefact", tt.name, tt.number, v.Digest)
		}
		v.Release()
	}
	m, err := r.Get("pinned")
	d.must(err)
	if m.Versions[0].Manifest.GetDescription() != "pinned" || m.Versions[0].Contract.MaxRows() != 7 {
		t.Errorf("got %+v", m.Versions[0])
	}
}

func TestOpenFails(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, open := range map[string]func() (*model.Repository, error){
		"no directory": func() (*model.Repository, error) {
			return model.Open(t.Context(), model.Config{Directory: filepath.Join(t.TempDir(), "none")}, &loader{}, log)
		},
		"no loader": func() (*model.Repository, error) {
			return model.Open(t.Context(), model.Config{Directory: t.TempDir()}, nil, log)
		},
		"context ended": func() (*model.Repository, error) {
			d := newDir(t)
			d.put("a/1/model.onnx", artifact("a"))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return model.Open(ctx, model.Config{Directory: d.path}, &loader{}, log)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(); err == nil {
				t.Error("no error")
			}
		})
	}
}

// What was loaded before the context ended is closed.
func TestOpenInterrupted(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a"))
	d.put("b/1/model.onnx", artifact("b"))
	ctx, cancel := context.WithCancel(t.Context())
	l := &loader{then: cancel}
	if _, err := model.Open(ctx, model.Config{Directory: d.path}, l, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := l.loads.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
	l.open.Wait()
}

// Each of these files cannot be used; the model beside it can.
func TestRefused(t *testing.T) {
	outside := newDir(t)
	outside.put("x/1/model.onnx", artifact("outside"))
	for name, tt := range map[string]struct {
		make     func(d dir)
		failures string
		why      string
	}{
		"unloadable":    {func(d dir) { d.put("x/1/model.onnx", artifact("unloadable")) }, "x/1/model.onnx", "the graph is wrong"},
		"half written":  {func(d dir) { d.put("x/1/model.onnx", artifact("half")[:9]) }, "x/1/model.onnx", "malformed"},
		"external data": {func(d dir) { d.put("x/1/model.onnx", graph(initializer(inFile()))) }, "x/1/model.onnx", "outside the artefact"},
		"too large":     {func(d dir) { d.put("x/1/model.onnx", artifact(strings.Repeat("x", 100))) }, "x/1/model.onnx", "larger than 100 bytes"},
		"absent":        {func(d dir) { d.put("x/1/weights.bin", nil) }, "x/1/model.onnx", "no such file"},
		"directory":     {func(d dir) { d.put("x/1/model.onnx/y", nil) }, "x/1/model.onnx", "not a regular file"},
		"named pipe": {func(d dir) {
			d.put("x/1/y", nil)
			d.must(syscall.Mkfifo(filepath.Join(d.path, "x/1/model.onnx"), 0o600))
		}, "x/1/model.onnx", "not a regular file"},
		"no version":            {func(d dir) { d.put("x/model.yaml", []byte("{}")) }, "x", "no version"},
		"leading zero":          {func(d dir) { d.put("x/01/model.onnx", artifact("x")) }, "x x/01", "leading zeros"},
		"version zero":          {func(d dir) { d.put("x/0/model.onnx", artifact("x")) }, "x x/0", "leading zeros"},
		"version too large":     {func(d dir) { d.put("x/9223372036854775808/model.onnx", artifact("x")) }, "x x/9223372036854775808", "1 to 9223372036854775807"},
		"name":                  {func(d dir) { d.put("-x/1/model.onnx", artifact("x")) }, "-x", "not a name"},
		"long name":             {func(d dir) { d.put(strings.Repeat("x", 129)+"/1/model.onnx", artifact("x")) }, strings.Repeat("x", 129), "not a name"},
		"model links outside":   {func(d dir) { d.link(outside.path+"/x", "x") }, "x", "escapes"},
		"version links outside": {func(d dir) { d.link(outside.path+"/x/1", "x/1") }, "x/1/model.onnx", "escapes"},
		"file links outside":    {func(d dir) { d.link(outside.path+"/x/1/model.onnx", "x/1/model.onnx") }, "x/1/model.onnx", "escapes"},
		"file climbs outside":   {func(d dir) { d.link("../../../secret.onnx", "x/1/model.onnx") }, "x/1/model.onnx", "escapes"},
		"manifest links outside": {func(d dir) {
			d.put("x/1/model.onnx", artifact("x"))
			d.link(outside.path+"/m.yaml", "x/model.yaml")
		}, "x/1/model.onnx x/model.yaml", "manifest is refused"},
		"manifest breaks a rule": {func(d dir) {
			d.put("x/1/model.onnx", artifact("x"))
			d.put("x/model.yaml", []byte("max_rows: -1"))
		}, "x/1/model.onnx x/model.yaml", "manifest is refused"},
		"manifest does not fit": {func(d dir) {
			d.put("x/1/model.onnx", artifact("x"))
			d.put("x/model.yaml", []byte("outputs: [none]"))
		}, "x/1/model.onnx", `no output "none"`},
		"default not there": {func(d dir) { d.put("x/model.yaml", []byte("default_version: 3")) }, "x x/model.yaml", "no version"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			d.put("good/1/model.onnx", artifact("good"))
			tt.make(d)
			r := d.open(&loader{}, model.Config{MaxArtifactBytes: 100})
			expect(t, r, "good/1*", tt.failures)
			if got := fmt.Sprint(r.Failures()); !strings.Contains(got, tt.why) {
				t.Errorf("got %s, want %q", got, tt.why)
			}
			if v, err := r.Acquire("x", 0); err == nil {
				v.Release()
				t.Error("a refused model was lent")
			}
		})
	}
}

func TestLinksWithin(t *testing.T) {
	d := newDir(t)
	d.put(".store/v1/model.onnx", artifact("linked"))
	d.link("../.store/v1", "a/1")
	d.put("b/1/x", nil)
	d.link("../../.store/v1/model.onnx", "b/1/model.onnx")
	expect(t, d.open(&loader{}, model.Config{}), "a/1* b/1*", "")
}

func TestAcquireErrors(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a"))
	d.put("a/2/model.onnx", artifact("unloadable"))
	d.put("bad/1/model.onnx", artifact("unloadable"))
	d.put("pinned/1/model.onnx", artifact("p"))
	d.put("pinned/model.yaml", []byte("default_version: 2"))
	r := d.open(&loader{}, model.Config{})
	for _, tt := range []struct {
		name   string
		number int64
		want   error
	}{
		{"none", 0, model.ErrNotFound}, {"a", 3, model.ErrNotFound}, {"a", -1, model.ErrNotFound},
		{"a", 2, model.ErrNotReady}, {"bad", 0, model.ErrNotReady}, {"bad", 1, model.ErrNotReady},
		{"pinned", 0, model.ErrNotReady}, {"pinned", 2, model.ErrNotFound},
	} {
		if _, err := r.Acquire(tt.name, tt.number); !errors.Is(err, tt.want) {
			t.Errorf("%s/%d: got %v, want %v", tt.name, tt.number, err, tt.want)
		}
	}
	if _, err := r.Get("none"); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := r.Get("bad"); !errors.Is(err, model.ErrNotReady) {
		t.Errorf("got %v", err)
	}
	expect(t, r, "a/1* pinned/1", "a/2/model.onnx bad/1/model.onnx pinned/model.yaml")
}

// A manifest's choice of outputs holds for whoever has the version's runner.
func TestOutputsKeptBack(t *testing.T) {
	d := newDir(t)
	d.put("a/1/model.onnx", artifact("a"))
	d.put("a/model.yaml", []byte("outputs: [label]"))
	v, err := d.open(&loader{}, model.Config{}).Acquire("a", 0)
	d.must(err)
	defer v.Release()
	got, err := v.Runner.Run(t.Context(), nil, nil)
	d.must(err)
	if _, ok := got["label"]; !ok || len(got) != 1 {
		t.Errorf("got %v", got)
	}
	if got, err := v.Runner.Run(t.Context(), nil, []string{"label", "score"}); err == nil {
		t.Errorf("got %v", got)
	}
	for _, sig := range []*model.Signature{v.Signature, v.Runner.Signature()} {
		if len(sig.Outputs) != 1 || sig.Outputs[0].Name != "label" {
			t.Errorf("outputs %v", sig.Outputs)
		}
	}
}
