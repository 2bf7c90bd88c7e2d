package model

import (
	"iter"
	"log/slog"
	"maps"
	"slices"
)

// Change is one difference between what was served and what is.
type Change struct {
	// Kind says what happened.
	Kind ChangeKind
	// Name and Version say to what. They are not set for Failed.
	Name    string
	Version int64
	// Digest is that of the artefact now loaded, or of the one removed.
	Digest string
	// Path is the file or directory that Failed, relative to the repository.
	Path string
	// Err says why it Failed.
	Err error
}

// ChangeKind is what happened to a version.
type ChangeKind uint8

// The kinds of change.
const (
	// Loaded says that a version was added or replaced, or has a new manifest.
	Loaded ChangeKind = iota + 1
	// Removed says that a version is no longer served.
	Removed
	// Failed says that a file cannot be used. What was served before still is,
	// unless it was Removed.
	Failed
)

// announce logs, and tells OnChange, what is not as it was. A failure is told
// once for as long as it is the same.
func (r *Repository) announce(before, now *snapshot) {
	tell := r.cfg.OnChange
	if tell == nil {
		tell = func(Change) {}
	}
	for v := range now.all() {
		if before.version(v.Name, v.Number) != v {
			r.log.Info("model loaded", slog.String("model", v.Name), slog.Int64("version", v.Number), slog.String("digest", v.Digest))
			tell(Change{Kind: Loaded, Name: v.Name, Version: v.Number, Digest: v.Digest})
		}
	}
	for v := range before.all() {
		if now.version(v.Name, v.Number) == nil {
			r.log.Info("model removed", slog.String("model", v.Name), slog.Int64("version", v.Number), slog.String("digest", v.Digest))
			tell(Change{Kind: Removed, Name: v.Name, Version: v.Number, Digest: v.Digest})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(now.failures)) {
		err := now.failures[path]
		if last := before.failures[path]; last == nil || last.Error() != err.Error() {
			r.log.Error("model refused", slog.String("path", path), slog.Any("error", err))
			tell(Change{Kind: Failed, Path: path, Err: err})
		}
	}
}

// all yields the versions that are loaded, by name and number.
func (s *snapshot) all() iter.Seq[*Version] {
	return func(yield func(*Version) bool) {
		for _, m := range s.list {
			for _, info := range m.Versions {
				if !yield(s.version(m.Name, info.Number)) {
					return
				}
			}
		}
	}
}

func (s *snapshot) version(name string, number int64) *Version {
	if e := s.models[name]; e != nil {
		return e.versions[number]
	}
	return nil
}
