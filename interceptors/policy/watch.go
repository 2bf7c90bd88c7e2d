package policy

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Run reloads the policy when its file changes, until ctx ends.
//
// It watches the directory, since editors and Kubernetes replace the file or a
// symbolic link on the way to it, and also looks every ten seconds, for changes
// that nobody tells of, or where a directory cannot be watched. A file counts once two readings, a tenth of a second
// apart, are the same: half a policy can be a valid one that lacks its last
// blocks. To be safe from slower writers, replace the file by renaming.
func (s *Store) Run(ctx context.Context) {
	events, faults, stop, err := s.notifications()
	if err != nil {
		s.log.WarnContext(ctx, "no file notifications: looking for a changed policy at intervals only",
			slog.String("file", s.path), slog.Any("error", err))
	}
	defer stop()
	poll := time.NewTicker(s.poll)
	defer poll.Stop()

	settled := time.NewTimer(0) // the file may have changed since it was loaded
	defer settled.Stop()
	looking := true
	w := watch{store: s}
	soon := func() {
		// Not put off by further events: the directory may never be quiet.
		if !looking {
			looking = true
			settled.Reset(s.settle)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			soon()
		case err := <-faults:
			s.log.WarnContext(ctx, "policy watch", slog.String("file", s.path), slog.Any("error", err))
			soon()
		case <-poll.C:
			soon()
		case <-settled.C:
			if looking = w.look(ctx); looking {
				settled.Reset(s.settle)
			}
		}
	}
}

// notifications tell of changes in the file's directory until stop is called. If
// they cannot be had, nothing ever comes.
func (s *Store) notifications() (events <-chan fsnotify.Event, faults <-chan error, stop func(), err error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, nil, func() {}, err
	}
	stop = func() { _ = watcher.Close() }
	if err := watcher.Add(filepath.Dir(s.path)); err != nil {
		return nil, nil, stop, err
	}
	return watcher.Events, watcher.Errors, stop, nil
}

// watch is what Run remembers between two looks at the file.
type watch struct {
	store *Store
	last  string // state of the reading before; empty if it had been dealt with
}

// look reads the file and puts it in force if it has changed and reads as it
// did the last time. It tells whether to look again when the file had time to
// change further.
func (w *watch) look(ctx context.Context) (again bool) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	r := w.store.read()
	switch {
	case w.store.known(r):
	case r.state() != w.last:
		w.last = r.state()
		return true
	default:
		_ = w.store.apply(ctx, r) // apply logs the error and tells of it
	}
	w.last = ""
	return false
}
