// Package svidfiles keeps an X.509-SVID, its key and the bundles as files, for
// programs without a SPIFFE library.
//
// All files of one update are one set: a directory of its own that is complete
// and on disk before anybody can see it. What programs open are links:
//
//	DIR/svid.pem         -> .current/svid.pem
//	DIR/key.pem          -> .current/key.pem
//	DIR/bundle.pem       -> .current/bundle.pem
//	DIR/bundle.NAME.pem  -> .current/bundle.NAME.pem
//	DIR/.current         -> .set-N
//
// A new set takes the place of the one before by one rename of .current. A
// reader that resolves DIR/.current once and opens the files under what it is
// has files that belong together. One that opens DIR/svid.pem and then
// DIR/key.pem may get a rename in between, and a key that does not fit: it finds
// that out by itself and reads again.
package svidfiles

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Names of files.
const (
	SVIDFile   = "svid.pem"   // the leaf, then intermediates
	KeyFile    = "key.pem"    // PKCS #8
	BundleFile = "bundle.pem" // of the SVID's own trust domain

	currentLink = ".current"
	newLink     = ".current.new"
	lockFile    = ".lock"
	setPrefix   = ".set-"
)

// BundleName is the file with the bundle of a federated trust domain.
func BundleName(trustDomain string) string { return "bundle." + trustDomain + ".pem" }

// Dir is a directory of such files, kept by this process. Its methods are for
// one goroutine at a time.
type Dir struct {
	path string
	lock *os.File
	// previous is the set before the current one: readers that have resolved the
	// link find it until the next replacement.
	previous string
}

// Open takes a directory for this process, makes it if it is not there and
// removes what a process that was killed has left. It refuses a directory that
// another process keeps, that others than the user and the group can write to
// unless it is sticky, or in which something else has one of the names. The
// caller closes it.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	switch err := os.Mkdir(path, 0o700); {
	case err == nil:
		if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // others may read certificates; the key's own mode keeps it
			return nil, err
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a directory", path)
	case info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0:
		return nil, fmt.Errorf("%s has mode %#o: everybody could replace the key; chmod o-w it, or make it sticky", path, info.Mode().Perm())
	}
	d := &Dir{path: path}
	if err := d.checkForeign(); err != nil {
		return nil, err
	}
	if d.lock, err = takeLock(filepath.Join(path, lockFile)); err != nil {
		return nil, err
	}
	if err := d.clean(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close gives the directory free. The files stay.
func (d *Dir) Close() error { return d.lock.Close() }

// takeLock takes a lock that the kernel gives free when the process ends,
// however it ends.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // in the directory that the user named
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is kept by another process", filepath.Dir(path))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// ours tells whether a name in the directory is one that this package gives.
func ours(name string) bool {
	return name == SVIDFile || name == KeyFile || name == BundleFile ||
		strings.HasPrefix(name, "bundle.") && strings.HasSuffix(name, ".pem")
}

// checkForeign finds what has one of our names and is not of our making.
func (d *Dir) checkForeign() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var errs []error
	foreign := func(name string) {
		errs = append(errs, fmt.Errorf("%s is in the way: it was not made here; move it away, or use another directory", filepath.Join(d.path, name)))
	}
	for _, e := range entries {
		name := e.Name()
		target, _ := os.Readlink(filepath.Join(d.path, name)) // empty if it is no link
		switch {
		case ours(name):
			if target != filepath.Join(currentLink, name) {
				foreign(name)
			}
		case name == currentLink || name == newLink:
			if !isSet(target) {
				foreign(name)
			}
		case isSet(name):
			if !e.IsDir() {
				foreign(name)
			}
		case name == lockFile:
			if !e.Type().IsRegular() {
				foreign(name)
			}
		}
	}
	return errors.Join(errs...)
}

func isSet(name string) bool {
	return strings.HasPrefix(name, setPrefix) && filepath.Base(name) == name
}

// current is the name of the set that readers see; "" if there is none.
func (d *Dir) current() (string, error) {
	target, err := os.Readlink(filepath.Join(d.path, currentLink))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return target, err
}

// expires is until when the SVID that readers see is good; the zero time if there
// is none that can be read.
func (d *Dir) expires() time.Time {
	content, err := os.ReadFile(filepath.Join(d.path, currentLink, SVIDFile))
	if err != nil {
		return time.Time{}
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return time.Time{}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

// clean removes what no reader needs: sets but the current and the previous one,
// and links of ours to files that the current set does not have.
func (d *Dir) clean() error {
	current, err := d.current()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name())
		switch {
		case isSet(e.Name()) && e.Name() != current && e.Name() != d.previous:
			errs = append(errs, os.RemoveAll(path))
		case e.Name() == newLink:
			errs = append(errs, os.Remove(path))
		case ours(e.Name()):
			target, _ := os.Readlink(path)
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && target == filepath.Join(currentLink, e.Name()) {
				errs = append(errs, os.Remove(path))
			}
		}
	}
	return errors.Join(errs...)
}
