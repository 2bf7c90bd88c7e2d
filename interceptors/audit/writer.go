package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// unfinished ends the name of a segment whose header is not on disk yet.
const unfinished = ".tmp"

// writer owns the directory and writes to the last segment. Its size, seq and
// sum are those of the last commit; what the file holds behind size was never
// acknowledged. It is used by one goroutine.
type writer struct {
	dir   string
	limit int64                // length at which a segment is full
	sync  func(*os.File) error // (*os.File).Sync, unless a test makes it fail

	lock     *os.File // the directory
	file     *os.File // the last segment
	first    uint64   // its first sequence
	size     int64
	seq      uint64
	sum      hash
	segments int
}

// commit writes frames and waits until they are on disk. seq and sum are those
// of the last of them. After an error nothing may be committed before recover.
func (w *writer) commit(frames []byte, seq uint64, sum hash) error {
	if err := w.check(); err != nil {
		return err
	}
	if w.size >= w.limit {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	if _, err := w.file.WriteAt(frames, w.size); err != nil {
		return err
	}
	if err := w.sync(w.file); err != nil {
		return err
	}
	w.size += int64(len(frames))
	w.seq, w.sum = seq, sum
	return nil
}

// check tells whether the open segment is still the file of its name and as
// long as it was left. A deleted file can be written to without any error.
func (w *writer) check() error {
	named, err := os.Lstat(w.path())
	if err != nil {
		return err
	}
	opened, err := w.file.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(named, opened) {
		return fmt.Errorf("%s was replaced", w.path())
	}
	if named.Size() != w.size {
		return fmt.Errorf("%s is %d bytes long instead of %d: something else wrote to it", w.path(), named.Size(), w.size)
	}
	return nil
}

func (w *writer) path() string { return filepath.Join(w.dir, segmentName(w.first)) }

func (w *writer) rotate() error {
	f, err := w.prepare()
	if err != nil {
		return err
	}
	return w.publish(f)
}

// prepare creates the next segment, without its name so that a segment with a
// name always has a whole header.
func (w *writer) prepare() (*os.File, error) {
	path := filepath.Join(w.dir, segmentName(w.seq+1)+unfinished)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // in the operator's own directory
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(appendHeader(nil, w.seq+1, w.sum)); err == nil {
		err = w.sync(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

// publish gives a prepared segment its name and goes over to it. It may take
// the place of a segment without records, which an error left behind.
func (w *writer) publish(f *os.File) error {
	path := filepath.Join(w.dir, segmentName(w.seq+1))
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Size() > int64(headerSize):
		err = fmt.Errorf("%s is there already: something else wrote to the directory", path)
	case err == nil || errors.Is(err, os.ErrNotExist):
		if err = os.Rename(path+unfinished, path); err == nil {
			err = w.sync(w.lock)
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if w.file != nil {
		_ = w.file.Close() // its commits were synced
	}
	if w.file == nil || w.first != w.seq+1 {
		w.segments++
	}
	w.file, w.first, w.size = f, w.seq+1, int64(headerSize)
	return nil
}

// recover makes the log fit for commits again after an error. The file that
// failed is cut back to the last commit, read again, and left for a new
// segment: after an error of fsync the kernel may have dropped what it held.
func (w *writer) recover() error {
	if err := w.relock(); err != nil {
		return err
	}
	// First, because it is cheap and fails on a full disk.
	next, err := w.prepare()
	if err != nil {
		return err
	}
	if err := w.reclaim(); err != nil {
		return errors.Join(err, next.Close(), os.Remove(next.Name()))
	}
	return w.publish(next)
}

// relock locks the directory again if another one has taken its place.
func (w *writer) relock() error {
	named, err := os.Stat(w.dir)
	if err != nil {
		return err
	}
	if held, err := w.lock.Stat(); err != nil || os.SameFile(named, held) {
		return err
	}
	lock, err := lockDirectory(w.dir)
	if err != nil {
		return err
	}
	_ = w.lock.Close() // opened for reading only
	w.lock = lock
	return nil
}

// reclaim cuts the last segment back to the last commit and verifies it.
func (w *writer) reclaim() error {
	f, err := os.OpenFile(w.path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > w.size {
		err = f.Truncate(w.size)
	}
	if err == nil {
		err = w.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	r, err := openReader(w.dir, w.first)
	if err != nil {
		return err
	}
	defer r.close()
	for r.seq < w.seq {
		if _, err := r.next(); err != nil {
			return fmt.Errorf("acknowledged record %d: %w", r.seq+1, err)
		}
	}
	if r.first != w.first || r.off != w.size || r.chain.sum != w.sum {
		return r.tampered("acknowledged records were replaced")
	}
	return nil
}

// close releases the directory. It may be called before there is a segment.
func (w *writer) close() error {
	var err error
	if w.file != nil {
		err = w.file.Close()
	}
	return errors.Join(err, w.lock.Close())
}
