package svidfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// file is one of a set.
type file struct {
	name    string
	content []byte
	mode    fs.FileMode // unless the set before has it with another
}

// Write replaces the set by one of this SVID and these bundles, of which the one
// of the SVID's own trust domain must be there. It returns when all of it is on
// disk. Permissions and group that somebody has given to a file stay; at first
// the key is for its user only and all else for everybody to read, whatever the
// umask. After an error the set before is still there, whole, or the new one is.
func (d *Dir) Write(svid *x509svid.SVID, bundles *x509bundle.Set) error {
	files, err := contents(svid, bundles)
	if err != nil {
		return err
	}
	set, err := d.writeSet(files)
	if err != nil {
		return fmt.Errorf("write SVID to %s: %w", d.path, err)
	}
	if err := d.replace(set, files); err != nil {
		return errors.Join(fmt.Errorf("replace SVID in %s: %w", d.path, err), d.clean())
	}
	if err := errors.Join(d.clean(), syncDir(d.path)); err != nil {
		return fmt.Errorf("replace SVID in %s: %w", d.path, err)
	}
	return nil
}

// replace makes the links to a set, then the set the current one: a name that is
// taken is found while the set before is still in place, and a link to what is
// not there yet harms nobody. What it has made before an error, clean removes.
func (d *Dir) replace(set string, files []file) error {
	for _, f := range files {
		if err := d.link(f.name); err != nil {
			return err
		}
	}
	return d.swap(set)
}

func contents(svid *x509svid.SVID, bundles *x509bundle.Set) ([]file, error) {
	certs, key, err := svid.Marshal()
	if err != nil {
		return nil, fmt.Errorf("SVID of %s: %w", svid.ID, err)
	}
	own := svid.ID.TrustDomain()
	if !bundles.Has(own) {
		return nil, fmt.Errorf("SVID of %s: no bundle of its trust domain", svid.ID)
	}
	files := []file{{SVIDFile, certs, 0o644}, {KeyFile, key, 0o600}}
	for _, b := range bundles.Bundles() {
		name := BundleName(b.TrustDomain().Name())
		if b.TrustDomain() == own {
			name = BundleFile
		}
		authorities, err := b.Marshal()
		if err != nil {
			return nil, fmt.Errorf("bundle of %s: %w", b.TrustDomain(), err)
		}
		files = append(files, file{name, authorities, 0o644})
	}
	return files, nil
}

// writeSet writes the files into a directory of their own and returns its name.
func (d *Dir) writeSet(files []file) (name string, err error) {
	path, err := os.MkdirTemp(d.path, setPrefix)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}()
	for _, f := range files {
		if err := d.writeFile(path, f); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // each file has its own mode
		return "", err
	}
	return filepath.Base(path), syncDir(path)
}

func (d *Dir) writeFile(set string, f file) error {
	out, err := os.OpenFile(filepath.Join(set, f.name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // in a directory of our own
	if err != nil {
		return err
	}
	_, err = out.Write(f.content)
	if err == nil {
		err = d.permit(out, f)
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// permit gives a new file the group and mode of the one before, if there is one.
func (d *Dir) permit(out *os.File, f file) error {
	before, err := os.Stat(filepath.Join(d.path, currentLink, f.name))
	if errors.Is(err, fs.ErrNotExist) {
		return out.Chmod(f.mode)
	}
	if err != nil {
		return err
	}
	now, err := out.Stat()
	if err != nil {
		return err
	}
	if gid := group(before); gid != group(now) {
		if err := out.Chown(-1, gid); err != nil {
			return err
		}
	}
	return out.Chmod(before.Mode().Perm()) // last: the group before this one must never get what is not for it
}

func group(info fs.FileInfo) int {
	return int(info.Sys().(*syscall.Stat_t).Gid)
}

// swap makes a set the current one.
func (d *Dir) swap(set string) error {
	before, err := d.current()
	if err != nil {
		return err
	}
	link := filepath.Join(d.path, newLink)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(set, link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(d.path, currentLink)); err != nil {
		return err
	}
	d.previous = before
	return syncDir(d.path)
}

// link makes the link that programs open, unless it is there. Something else in
// its place is an error.
func (d *Dir) link(name string) error {
	path, target := filepath.Join(d.path, name), filepath.Join(currentLink, name)
	err := os.Symlink(target, path)
	if errors.Is(err, fs.ErrExist) {
		if found, _ := os.Readlink(path); found == target {
			return nil
		}
	}
	return err
}

func syncDir(path string) error {
	f, err := os.Open(path) //nolint:gosec // the directory that the user named, or one in it
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
