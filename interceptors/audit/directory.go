package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrLocked says that another process, or another Log, has the directory open.
var ErrLocked = errors.New("in use by another writer")

// makeDirectory creates dir if it is missing, durably, and refuses one that
// others may write to.
func makeDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("%s has mode %#o: others may write to it; chmod it to 0700", dir, perm)
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// lockDirectory returns the open directory, locked until it is closed or the
// process ends.
func lockDirectory(dir string) (*os.File, error) {
	d, err := os.Open(dir) //nolint:gosec // the operator's own directory
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = d.Close() // opened for reading only
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return d, nil
}

// removeUnfinished removes files that a crash left before they had their name.
// None of them holds a record that is not elsewhere.
func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// errIrregular says that something else is in a file's place.
var errIrregular = errors.New("not a regular file")

// openRegular opens a file of a log for reading. It does not wait for a pipe, nor
// follow a link: whoever may write to the directory can put one there.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0) //nolint:gosec // in the operator's own directory
	if errors.Is(err, syscall.ELOOP) {
		err = errIrregular
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errIrregular
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writeWhole writes a file that is there whole, whatever crashes, or not at all.
func writeWhole(path string, content []byte, sync func(*os.File) error) error {
	f, err := os.OpenFile(path+unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // in the operator's own directory
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

// syncDirectory waits until the names in dir are on disk.
func syncDirectory(dir string, sync func(*os.File) error) error {
	d, err := os.Open(dir) //nolint:gosec // the operator's own directory
	if err != nil {
		return err
	}
	return errors.Join(sync(d), d.Close())
}
