package devauthority

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// lock makes the authority's folders and takes them for this process. The
// kernel gives them free when the process ends, however it ends.
func (a *Authority) lock() (unlock func() error, err error) {
	for _, dir := range []string{a.stateDir(), filepath.Dir(a.Socket(""))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		// It may have been there before, and open to others.
		if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder needs the x bit
			return nil, err
		}
	}
	f, err := os.OpenFile(filepath.Join(a.stateDir(), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another one is running on %s; stop it or use another folder", a.cfg.Dir)
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f.Close, nil
}

// maxSocketPath is how long the path of a unix socket may be; the kernel wants
// a zero byte after it.
const maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// listen makes a unix socket that only this user can open. The folder is closed
// to others, so there is no moment between bind and chmod in which they could.
// The lock is held: a socket that is there belongs to a process that is gone.
func listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes, more than the %d that the system allows; use a folder with a shorter path", path, len(path), maxSocketPath)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is in the way: not a socket", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}
