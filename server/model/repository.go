package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where the models are.
type Config struct {
	// Directory is the repository's root.
	Directory string
	// PollInterval is how often Run looks for changes beside file notifications;
	// 10 s unless set.
	PollInterval time.Duration
	// MaxArtifactBytes is the size of the largest artefact that is loaded; 2 GiB
	// unless set.
	MaxArtifactBytes int64
	// OnChange, if it is set, is told of every change after it took effect, one
	// at a time. It must not call Reload or Close.
	OnChange func(Change)
}

// Repository serves the models in a directory:
//
//	<name>/<version>/model.onnx
//	<name>/model.yaml             the manifest; optional
//
// Names are those that the API admits, versions decimal without leading zeros.
// Names that begin with a dot are passed over, so that a model can be copied
// under such a name and appear whole when it is renamed. Links are followed
// within the directory and nowhere else.
//
// A version that cannot be loaded, or that its manifest does not fit, is not
// served; if it was served before, what was goes on. A manifest that is removed
// stays in force. All methods are safe for
// concurrent use.
type Repository struct {
	cfg    Config
	loader Loader
	log    *slog.Logger

	current atomic.Pointer[snapshot]
	live    sync.WaitGroup // one for each open runner

	mu     sync.Mutex        // held by a scan and by Close; guards what follows
	models map[string]*state // by name
	dirs   []string          // that a change can happen in
	closed bool
}

// snapshot is what is served at one time. It is immutable.
type snapshot struct {
	models   map[string]*entry
	list     []Model
	failures map[string]error
	closed   bool
}

type entry struct {
	Model
	versions map[int64]*Version // nil for one that could not be loaded
	standard *Version           // nil if it is not loaded
}

// Model is a model and its loaded versions.
type Model struct {
	Name string
	// Default is the version that answers when a caller names none: the
	// manifest's, or the highest. 0 if that one is not loaded.
	Default int64
	// Versions has the loaded versions, ascending.
	Versions []Info
}

// Open loads what is in the directory, and blocks until all of it was tried.
// That a model cannot be loaded is no error: Failures tells. That the directory
// cannot be read is one. Close the repository after use.
func Open(ctx context.Context, cfg Config, loader Loader, log *slog.Logger) (*Repository, error) {
	if loader == nil || log == nil {
		return nil, errors.New("a model repository needs a loader and a logger")
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 10 * time.Second
	}
	if cfg.MaxArtifactBytes == 0 {
		cfg.MaxArtifactBytes = 2 << 30
	}
	r := &Repository{cfg: cfg, loader: loader, log: log}
	r.current.Store(&snapshot{})
	if err := r.Reload(ctx); err != nil {
		r.shut()
		return nil, err
	}
	return r, nil
}

// Acquire lends a version of a model, 0 for the default one. It stays loaded,
// whatever becomes of its files, until it is released. Acquire does not block
// nor, if it succeeds, allocate. Errors wrap ErrNotFound, or ErrNotReady if the
// version is there but could not be loaded.
func (r *Repository) Acquire(name string, number int64) (*Version, error) {
	for {
		v, err := r.current.Load().find(name, number)
		if err != nil {
			return nil, err
		}
		// Otherwise it was replaced just now, and there is a newer snapshot.
		if v.artifact.acquire() {
			return v, nil
		}
	}
}

func (s *snapshot) find(name string, number int64) (*Version, error) {
	if s.closed {
		return nil, ErrNotReady
	}
	e := s.models[name]
	if e == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, quote(name))
	}
	v, exists := e.standard, true
	if number != 0 {
		v, exists = e.versions[number]
	}
	switch {
	case !exists:
		return nil, fmt.Errorf("%w: %s version %d", ErrNotFound, quote(name), number)
	case v == nil:
		return nil, fmt.Errorf("%w: %s version %d", ErrNotReady, quote(name), number)
	}
	return v, nil
}

// List has the models of which a version is loaded, by name. The caller must
// not change it.
func (r *Repository) List() []Model { return r.current.Load().list }

// Get describes one model. The error wraps ErrNotFound or ErrNotReady.
func (r *Repository) Get(name string) (Model, error) {
	s := r.current.Load()
	switch e := s.models[name]; {
	case s.closed, e != nil && len(e.Versions) == 0:
		return Model{}, fmt.Errorf("%w: %s", ErrNotReady, quote(name))
	case e == nil:
		return Model{}, fmt.Errorf("%w: %s", ErrNotFound, quote(name))
	default:
		return e.Model, nil
	}
}

// Failures says what could not be used and why, by path relative to the
// directory. It is empty when all that is there is served.
func (r *Repository) Failures() map[string]error { return maps.Clone(r.current.Load().failures) }

// Close ends the service and waits until every loan is released and every
// runner closed, or ctx ends, whose error it then returns. Loans that last
// longer stay valid.
func (r *Repository) Close(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.shut()
		r.live.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close models: %w", ctx.Err())
	}
}

func (r *Repository) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	r.current.Store(&snapshot{closed: true})
	for a := range artifacts(r.models) {
		a.release()
	}
	r.models = nil
}

// publish makes the models what is served.
func (r *Repository) publish(models map[string]*state, failures map[string]error) {
	s := &snapshot{models: make(map[string]*entry, len(models)), failures: failures}
	for name, st := range models {
		e := &entry{Model: Model{Name: name}, versions: map[int64]*Version{}}
		s.models[name] = e
		for number, a := range st.versions {
			e.versions[number] = a.version
			if v := a.version; v != nil {
				e.Versions = append(e.Versions, v.Info)
				if e.standard == nil || v.Number > e.standard.Number {
					e.standard = v
				}
			}
		}
		slices.SortFunc(e.Versions, func(a, b Info) int { return cmp.Compare(a.Number, b.Number) })
		if pinned := st.manifest.GetDefaultVersion(); pinned != 0 {
			e.standard = e.versions[pinned]
			if e.standard == nil {
				failures[name+"/"+manifestFile] = errors.Join(failures[name+"/"+manifestFile],
					fmt.Errorf("default_version: version %d is not loaded", pinned))
			}
		}
		if e.standard != nil {
			e.Default = e.standard.Number
		}
		if len(e.Versions) > 0 {
			s.list = append(s.list, e.Model)
		}
	}
	slices.SortFunc(s.list, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	r.current.Store(s)
}
