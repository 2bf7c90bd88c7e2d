package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Repair tells what Open cut off the end of the log: part of a commit that was
// never acknowledged, because the process or the machine died over it.
type Repair struct {
	// File is the segment's path.
	File string
	// Offset is where the torn tail began, and the segment now ends.
	Offset int64
	// Bytes is the length of the torn tail.
	Bytes int64
	// Saved is the path of the file that keeps the torn tail.
	Saved string
}

// openWriter locks dir, verifies all of the log in it or begins one, and cuts
// a torn tail off.
func openWriter(cfg Config) (_ *writer, _ *Repair, err error) {
	if err := makeDirectory(cfg.Dir); err != nil {
		return nil, nil, err
	}
	w := &writer{dir: cfg.Dir, limit: cfg.SegmentBytes, sync: cfg.sync, sum: genesis()}
	if w.lock, err = lockDirectory(cfg.Dir); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := removeUnfinished(cfg.Dir); err != nil {
		return nil, nil, err
	}
	firsts, err := segments(cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	var repair *Repair
	if len(firsts) == 0 {
		err = w.rotate()
	} else {
		repair, err = w.resume()
	}
	if err != nil {
		return nil, nil, err
	}
	return w, repair, nil
}

// resume reads the log to its end and goes on there.
func (w *writer) resume() (*Repair, error) {
	r, err := openReader(w.dir, 1)
	if err != nil {
		return nil, untouched(err)
	}
	defer r.close()
	for err == nil {
		_, err = r.next()
	}
	if !errors.Is(err, io.EOF) {
		return nil, untouched(err)
	}
	w.first, w.size, w.seq, w.sum, w.segments = r.first, r.off, r.seq, r.chain.sum, r.segments
	if w.file, err = os.OpenFile(r.path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if r.torn == 0 {
		// A killed process may have left whole records that were not synced.
		return nil, w.sync(w.file)
	}
	repair := &Repair{File: r.path, Offset: r.off, Bytes: r.torn}
	if repair.Saved, err = w.cut(); err != nil {
		return nil, fmt.Errorf("cut off the torn tail of %s: %w", r.path, err)
	}
	return repair, nil
}

// untouched adds to an error that a log does not fit together what to do.
func untouched(err error) error {
	return fmt.Errorf("%w; nothing was changed: put the file back from a copy, or keep the directory as evidence and begin a new log in another one", err)
}

// cut moves what lies behind the last commit to a file of its own.
func (w *writer) cut() (saved string, err error) {
	// A crash at the same place again gets another name.
	f, err := os.CreateTemp(w.dir, fmt.Sprintf("%s.%d.*.torn", segmentName(w.first), w.size))
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, io.NewSectionReader(w.file, w.size, maxCommit))
	if err = errors.Join(err, w.sync(f), f.Close()); err != nil {
		return "", err
	}
	if err := w.sync(w.lock); err != nil {
		return "", err
	}
	if err := w.file.Truncate(w.size); err != nil {
		return "", err
	}
	return filepath.Join(w.dir, filepath.Base(f.Name())), w.sync(w.file)
}
