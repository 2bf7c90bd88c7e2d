package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// unfinished ends the name of a file that is not whole yet.
const unfinished = ".tmp"

// position is how far the log goes: in bytes of the last segment and in records.
type position struct {
	size int64
	tree tree
}

func (p *position) set(other *position) {
	p.size = other.size
	p.tree.set(&other.tree)
}

// writer owns the directory and writes to the last segment. It is used by one
// goroutine.
type writer struct {
	dir   string
	limit int64 // length at which a segment is full
	// sync is (*os.File).Sync and syncData is syncData, unless a test makes them fail.
	sync, syncData func(*os.File) error

	lock     *os.File // the directory
	file     *os.File // the last segment
	first    uint64   // its first sequence
	segments int
	index    *indexBuilder // of the last segment, up to written

	// durable is what is on disk, written what is at least with the operating
	// system. What the file holds behind written was never acknowledged.
	durable, written position

	signed *checkpoints
	// unsigned is how many records no checkpoint covered when the log was opened.
	unsigned uint64
	// foreign says that the last checkpoint was signed by another key then.
	foreign bool
	// sealed says that the last segment does not begin with the key of what comes
	// next, which therefore belongs into a new one.
	sealed bool
}

// write writes frames, after which the log ends at end. After an error nothing
// may be written before recover.
func (w *writer) write(frames []byte, end *tree) error {
	if err := w.checkOpen(); err != nil {
		return err
	}
	if _, err := w.file.WriteAt(frames, w.written.size); err != nil {
		return err
	}
	w.written.size += int64(len(frames))
	w.written.tree.set(end)
	return nil
}

// flush waits until what was written is on disk. After an error nothing may be
// written before recover.
func (w *writer) flush() error {
	if err := w.syncData(w.file); err != nil {
		// The file was opened before it had its name.
		if failed := (*os.PathError)(nil); errors.As(err, &failed) {
			failed.Path = w.path()
		}
		return err
	}
	w.durable.set(&w.written)
	return nil
}

// checkOpen tells whether the open segment still has a name and is as long as it
// was left. A deleted file can be written to without any error. It is check for
// each commit: what it does not see, that the file has another name now, loses
// nothing.
func (w *writer) checkOpen() error {
	var opened unix.Stat_t
	if err := unix.Fstat(int(w.file.Fd()), &opened); err != nil {
		return &os.PathError{Op: "fstat", Path: w.path(), Err: err}
	}
	if opened.Nlink == 0 || opened.Size != w.written.size {
		return w.check() // which says what happened
	}
	return nil
}

// check tells whether the open segment is still the file of its name and as
// long as it was left.
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
	if named.Size() != w.written.size {
		return fmt.Errorf("%s is %d bytes long instead of %d: something else wrote to it", w.path(), named.Size(), w.written.size)
	}
	return nil
}

func (w *writer) path() string { return filepath.Join(w.dir, segmentName(w.first)) }

// full tells whether the next records belong into a new segment.
func (w *writer) full() bool {
	return w.written.size >= w.limit || w.written.tree.size+1-w.first >= maxSegmentRecords || w.sealed
}

// empty tells whether the last segment has no record.
func (w *writer) empty() bool { return w.durable.tree.size+1 == w.first }

// rotate goes over to the next segment. All that was written is on disk then, and
// a checkpoint has been made of it, so that a segment that is not the last one
// always ends with a checkpoint.
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
	path := filepath.Join(w.dir, segmentName(w.durable.tree.size+1)+unfinished)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // in the operator's own directory
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(appendHeader(nil, &w.durable.tree)); err == nil {
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
	first := w.durable.tree.size + 1
	path := filepath.Join(w.dir, segmentName(first))
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Size() > int64(headerSize(first)):
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
		_ = w.file.Close() // what was acknowledged was synced
	}
	if w.file == nil || w.first != first {
		w.segments++
	}
	w.file, w.first, w.durable.size, w.sealed = f, first, int64(headerSize(first)), false
	w.written.set(&w.durable)
	w.index = newIndexBuilder(first)
	return nil
}

// recover makes the log fit for commits again after an error. The file that
// failed is cut back to what is durable, read again, and left for a new segment:
// after an error of fsync the kernel may have dropped what it held.
func (w *writer) recover(key *SigningKey) error {
	if err := w.relock(); err != nil {
		return err
	}
	// First, because it is cheap and fails on a full disk.
	next, err := w.prepare()
	if err != nil {
		return err
	}
	err = w.reclaim()
	if err == nil {
		err = w.checkpoint(key)
	}
	if err != nil {
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

// reclaim cuts the last segment back to what is durable and verifies it.
func (w *writer) reclaim() error {
	f, err := os.OpenFile(w.path(), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > w.durable.size {
		err = f.Truncate(w.durable.size)
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
	last := w.durable.tree.size
	index := newIndexBuilder(w.first)
	for r.seq < last {
		off := r.off
		record, err := r.next()
		if err != nil {
			return fmt.Errorf("acknowledged record %d: %w", r.seq+1, err)
		}
		index.add(readClear(record), off, r.leaf)
	}
	if r.first != w.first || r.off != w.durable.size || !r.tree.equal(&w.durable.tree) {
		return r.tampered("acknowledged records were replaced")
	}
	w.written.set(&w.durable)
	*w.index = *index
	return nil
}

// checkpoint signs what is durable, unless the last checkpoint is of the same.
func (w *writer) checkpoint(key *SigningKey) error {
	if w.signed.last.Note != nil && w.signed.last.Size == w.durable.tree.size {
		return nil
	}
	c, err := key.sign(&w.durable.tree)
	if err != nil {
		return err
	}
	return w.signed.append(w.dir, w.first, c, w.sync)
}

// close releases the directory. It may be called before there is a segment.
func (w *writer) close() error {
	var err error
	if w.file != nil {
		err = w.file.Close()
	}
	return errors.Join(err, w.lock.Close())
}
