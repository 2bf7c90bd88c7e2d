package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
)

// place is the directory in which a run gathers its answers until all are there:
// OUTPUT.unfinished. It is locked until it is released or the process ends, and
// the output has its name only once it is whole.
type place struct {
	output string
	dir    string
	lock   *os.File
	begun  bool // there is a checkpoint
}

const (
	checkpointFile = "checkpoint.json"
	nextFile       = checkpointFile + ".next"
	answersFile    = "answers"
	finalFile      = "final"
)

// takePlace locks the place of an output, which must not be there yet.
func takePlace(output string, overwrite bool) (*place, error) {
	p := &place{output: output, dir: output + ".unfinished"}
	if _, err := os.Lstat(output); err == nil && !overwrite {
		return nil, fmt.Errorf("%s is there already; --overwrite replaces it", output)
	}
	for p.lock == nil {
		if err := os.Mkdir(p.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		lock, err := os.OpenFile(p.dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another run has just finished
		}
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = lock.Close() // opened for reading only
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, fmt.Errorf("another run writes to %s at this moment", output)
			}
			return nil, fmt.Errorf("lock %s: %w", p.dir, err)
		}
		// A run that has finished removes its place: what we locked may be gone.
		if !same(lock, p.dir) {
			_ = lock.Close() // opened for reading only
			continue
		}
		p.lock = lock
	}
	if _, err := os.Lstat(output); err == nil && !overwrite {
		p.release() // finished between the two looks
		return nil, fmt.Errorf("%s is there already; --overwrite replaces it", output)
	}
	err := p.private()
	if err == nil && overwrite {
		err = p.clear()
	}
	if err != nil {
		p.begun = true // so that it stays
		p.release()
		return nil, err
	}
	return p, nil
}

// private tells whether what is in the directory is ours. In a directory that others
// may write to they can be there first, with a link to a file that we would write to.
func (p *place) private() error {
	info, err := p.lock.Stat()
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s belongs to another user, or others may write to it: remove it", p.dir)
	}
	return nil
}

// clear removes our files from the directory.
func (p *place) clear() error {
	for _, name := range []string{checkpointFile, nextFile, answersFile, finalFile} {
		if err := os.Remove(p.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// remove removes the directory, unless it holds files that are not ours.
func (p *place) remove() error {
	err := p.clear()
	if err == nil {
		err = os.Remove(p.dir)
	}
	if errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

func same(open *os.File, path string) bool {
	a, errA := open.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }
func (p *place) answers() string         { return p.path(answersFile) }

// load reads the checkpoint, if there is one.
func (p *place) load(s *state) (begun bool, err error) {
	data, err := os.ReadFile(p.path(checkpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, s)
	}
	if err == nil && s.Format != stateFormat {
		err = fmt.Errorf("it is of format %d, this program knows %d", s.Format, stateFormat)
	}
	if err != nil {
		p.begun = true // so that it stays
		return false, fmt.Errorf("checkpoint %s: %w; --overwrite begins anew", p.path(checkpointFile), err)
	}
	p.begun = true
	return true, nil
}

// save replaces the checkpoint: after a crash there is the old one or the new one.
func (p *place) save(s *state) error {
	s.Format = stateFormat
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	next := p.path(nextFile)
	f, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // in our own directory
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, p.path(checkpointFile)); err != nil {
		return err
	}
	p.begun = true
	return p.lock.Sync()
}

// finish gives the answers the format of the output, and its name.
func (p *place) finish(format table.Format) error {
	whole := p.answers()
	if table.Growing(format) != format {
		whole = p.path(finalFile)
		if err := p.convert(whole, format); err != nil {
			return fmt.Errorf("write %s: %w", p.output, err)
		}
	}
	if err := os.Rename(whole, p.output); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(p.output))
	if err != nil {
		return err
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return err
	}
	return p.remove()
}

func (p *place) convert(to string, format table.Format) error {
	grown, err := os.Open(p.answers())
	if err != nil {
		return err
	}
	defer func() { _ = grown.Close() }()                               // opened for reading only
	f, err := os.OpenFile(to, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600) //nolint:gosec // in our own directory
	if err != nil {
		return err
	}
	err = table.Finish(f, grown, format)
	return errors.Join(err, f.Sync(), f.Close())
}

// release unlocks the place. What was never worth a checkpoint is removed.
func (p *place) release() {
	if !p.begun && same(p.lock, p.dir) {
		_ = p.remove() // it holds nothing of worth
	}
	_ = p.lock.Close() // opened for reading only
}
