package model

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

const (
	manifestFile = "model.yaml"
	misnamedFile = "model.yml"
	artifactFile = "model.onnx"
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// state is what is known of one model between scans.
type state struct {
	manifest *configv1.ModelManifest // the last good one; nil for none
	raw      []byte                  // what it was read from
	refused  bool                    // there is a manifest, or was, and it was never good
	versions map[int64]attempt
}

// attempt is the last attempt to load a version.
type attempt struct {
	stamp    stamp
	manifest *configv1.ModelManifest
	err      error
	version  *Version // what is served: of this attempt or of the last good one
}

// artifacts yields what models hold, each artefact once.
func artifacts(models map[string]*state) iter.Seq[*artifact] {
	return func(yield func(*artifact) bool) {
		for _, st := range models {
			for _, a := range st.versions {
				if a.version != nil && !yield(a.version.artifact) {
					return
				}
			}
		}
	}
}

// Reload looks for changes now, tries again what failed, and blocks until all
// that changed was tried. What is served does not change meanwhile. The error
// is that the directory cannot be read, or ctx's; then all stays as it was.
func (r *Repository) Reload(ctx context.Context) error { return r.reload(ctx, true) }

func (r *Repository) reload(ctx context.Context, retry bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.New("the model repository is closed")
	}
	s := scan{Repository: r, retry: retry, failures: map[string]error{}, next: map[string]*state{}}
	if err := s.run(ctx); err != nil {
		s.discard(s.next, r.models)
		return fmt.Errorf("read model repository: %w", err)
	}
	before, old := r.current.Load(), r.models
	r.models, r.dirs = s.next, s.dirs
	r.publish(s.next, s.failures)
	s.discard(old, s.next)
	r.announce(before, r.current.Load())
	return nil
}

// scan is one look at the directory.
type scan struct {
	*Repository
	root     *os.Root
	retry    bool
	failures map[string]error
	next     map[string]*state
	dirs     []string
}

// discard releases what is in one and not in the other.
func (s *scan) discard(from, kept map[string]*state) {
	keep := map[*artifact]bool{}
	for a := range artifacts(kept) {
		keep[a] = true
	}
	for a := range artifacts(from) {
		if !keep[a] {
			a.release()
		}
	}
}

func (s *scan) run(ctx context.Context) error {
	root, err := os.OpenRoot(s.cfg.Directory)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it was only read
	s.root = root
	names, err := s.directories(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !namePattern.MatchString(name) {
			if name != "lost+found" {
				s.failures[name] = errors.New("not a name for a model")
			}
			continue
		}
		if s.next[name], err = s.model(ctx, name, s.models[name]); err != nil {
			return err
		}
	}
	return nil
}

// directories lists what in dir is, or may be, a directory or a link to one.
func (s *scan) directories(dir string) ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err != nil {
		return nil, err
	}
	s.dirs = append(s.dirs, dir)
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := s.root.Stat(path.Join(dir, e.Name()))
		if err == nil && info.IsDir() || err != nil && !errors.Is(err, fs.ErrNotExist) {
			names = append(names, e.Name()) // whoever reads it next fails and says so
		}
	}
	return names, nil
}

// model looks at one model. The error is only ctx's.
func (s *scan) model(ctx context.Context, name string, last *state) (*state, error) {
	if last == nil {
		last = &state{}
	}
	st := &state{versions: map[int64]attempt{}}
	dirs, err := s.directories(name)
	if err != nil {
		s.failures[name] = err
		return last, nil
	}
	s.manifest(name, last, st)
	for _, dir := range dirs {
		if strings.Trim(dir, "0123456789") != "" {
			continue
		}
		number, err := strconv.ParseInt(dir, 10, 64)
		at := path.Join(name, dir, artifactFile)
		if err != nil || dir[0] == '0' {
			s.failures[path.Join(name, dir)] = errors.New("not a version: 1 to 9223372036854775807 without leading zeros")
			continue
		}
		if err := ctx.Err(); err != nil {
			return st, err
		}
		s.dirs = append(s.dirs, path.Join(name, dir))
		a := s.version(name, number, at, last.versions[number], st)
		if a.err != nil {
			s.failures[at] = a.err
		}
		st.versions[number] = a
	}
	if len(st.versions) == 0 {
		s.failures[name] = errors.New("no version")
	}
	return st, nil
}

// absent says why a model without a manifest is not one without a contract.
func (s *scan) absent(name string, last *state) error {
	if _, err := s.root.Lstat(path.Join(name, misnamedFile)); err == nil {
		return fmt.Errorf("%s is there in its place, which nobody reads: rename it", misnamedFile)
	}
	if last.refused || proto.Size(last.manifest) > 0 {
		return errors.New("removed, but what it last said stays in force; write {} into it to lift the contract")
	}
	return nil
}

// manifest puts the model's manifest into st: the last good one if the file is
// none or gone. A deployment that loses the file must not lose the contract.
func (s *scan) manifest(name string, last, st *state) {
	at := path.Join(name, manifestFile)
	raw, _, err := read(s.root, at, maxManifestBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err = s.absent(name, last); err == nil {
			return
		}
	case err == nil && last.raw != nil && bytes.Equal(raw, last.raw):
		st.manifest, st.raw = last.manifest, last.raw
		return
	case err == nil:
		st.raw = raw
		st.manifest, err = ParseManifest(at, raw)
	}
	if err != nil {
		s.failures[at] = err
		st.manifest, st.raw = last.manifest, last.raw
		st.refused = last.versions == nil || last.refused
	}
}

// version loads a version if it or its manifest changed since the last attempt.
func (s *scan) version(name string, number int64, at string, last attempt, st *state) attempt {
	next := attempt{manifest: st.manifest, version: last.version}
	if st.refused {
		next.err = errors.New("its manifest is refused")
		return next
	}
	info, err := s.root.Stat(at)
	if err == nil && last.stamp.same(info) && last.manifest == st.manifest && (last.err == nil || !s.retry) {
		return last
	}
	var a *artifact
	if err == nil {
		a, next.stamp, err = s.artifact(name, at, last, info)
	}
	if errors.Is(err, fs.ErrNotExist) {
		next.version = nil // removed
	}
	if err != nil {
		next.err = err
		return next
	}
	if v := last.version; v != nil && v.artifact == a && v.Manifest == st.manifest {
		return next
	}
	v, err := newVersion(name, number, a, st.manifest)
	if err != nil {
		next.err = fmt.Errorf("manifest: %w", err)
		if last.version == nil || last.version.artifact != a {
			a.release()
		}
		return next
	}
	next.version = v
	return next
}

// artifact loads an artefact unless it is the one already served.
func (s *scan) artifact(name, at string, last attempt, info fs.FileInfo) (*artifact, stamp, error) {
	v := last.version
	if v != nil && last.err == nil && last.stamp.same(info) {
		return v.artifact, last.stamp, nil
	}
	data, stamp, err := read(s.root, at, s.cfg.MaxArtifactBytes)
	if err != nil {
		return nil, stamp, err
	}
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if v != nil && v.Digest == digest {
		return v.artifact, stamp, nil
	}
	if err := Inspect(data); err != nil {
		return nil, stamp, err
	}
	runner, err := s.loader.Load(data)
	if err != nil {
		return nil, stamp, err
	}
	a := &artifact{digest: digest, runner: runner, name: name, log: s.log, live: &s.live}
	a.uses.Store(1)
	s.live.Add(1)
	return a, stamp, nil
}
