package model

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long files must rest before they are looked at: whoever copies
// one in goes on writing to it.
const quiet = 200 * time.Millisecond

// Run serves changes in the directory as they come, until ctx ends. Files that
// tell of no change, on a network or behind links, are looked at every
// PollInterval. Call it once.
func (r *Repository) Run(ctx context.Context) {
	var w watcher
	var events <-chan fsnotify.Event
	var faults <-chan error
	if err := w.open(); err != nil {
		r.log.Warn("no file notifications: looking for changed models at intervals only", slog.Any("error", err))
	} else {
		defer func() { _ = w.Close() }()
		events, faults = w.Events, w.Errors
	}
	poll := time.NewTicker(r.cfg.PollInterval)
	defer poll.Stop()
	rest := time.NewTimer(0) // what changed since Open is to be seen now
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.Op != fsnotify.Chmod {
				rest.Reset(quiet)
			}
			continue
		case err := <-faults:
			r.log.Warn("file notifications were lost", slog.Any("error", err))
			rest.Reset(quiet)
			continue
		case <-poll.C:
		case <-rest.C:
		}
		if r.look(ctx) && r.watch(&w) {
			rest.Reset(quiet) // it may have changed between the look and the watch
		}
	}
}

// look reloads what changed, and reports whether the directory could be read.
func (r *Repository) look(ctx context.Context) bool {
	err := r.reload(ctx, false)
	if err != nil && ctx.Err() == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		before := r.current.Load()
		if before.closed {
			return false
		}
		now := *before
		now.failures = maps.Clone(before.failures)
		now.failures["."] = err
		r.current.Store(&now)
		r.announce(before, &now)
	}
	return err == nil
}

// watcher watches directories; the zero watcher none.
type watcher struct {
	*fsnotify.Watcher
	warned bool // one warning says that there are too few watches
}

func (w *watcher) open() (err error) {
	w.Watcher, err = fsnotify.NewWatcher()
	return err
}

// watch watches every directory that was seen, and reports whether one is new.
func (r *Repository) watch(w *watcher) bool {
	if w.Watcher == nil {
		return false
	}
	watched := map[string]bool{}
	for _, path := range w.WatchList() {
		watched[path] = true
	}
	r.mu.Lock()
	dirs := r.dirs
	r.mu.Unlock()
	added := false
	for _, dir := range dirs {
		path := filepath.Join(r.cfg.Directory, filepath.FromSlash(dir))
		if watched[path] {
			continue
		}
		err := w.Add(path)
		if err == nil {
			added = true
		} else if !w.warned && !errors.Is(err, fs.ErrNotExist) {
			w.warned = true
			r.log.Warn("no file notifications for a directory: looking at intervals only", slog.String("path", dir), slog.Any("error", err))
		}
	}
	return added
}
