package batch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// growing is a file that only grows. What a crash left behind the bytes that are
// known to be durable is cut off when it is opened again.
type growing struct {
	f *os.File  // nil if it goes to w
	w io.Writer // buffered, of f
	n int64     // bytes written
}

// grow opens a file that has so many durable bytes.
func grow(path string, durable int64) (*growing, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // the file that the user named, or our own
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < durable {
		err = fmt.Errorf("%s has %d bytes, of which %d were durable once: it was changed; --overwrite begins anew", path, info.Size(), durable)
	}
	if err == nil {
		err = f.Truncate(durable)
	}
	if err == nil {
		_, err = f.Seek(durable, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &growing{f: f, w: bufio.NewWriterSize(f, 1<<18), n: durable}, nil
}

func (g *growing) Write(p []byte) (int, error) {
	n, err := g.w.Write(p)
	g.n += int64(n)
	return n, err
}

func (g *growing) flush() error {
	if b, ok := g.w.(*bufio.Writer); ok {
		return b.Flush()
	}
	return nil
}

// sync makes what was written durable and returns how much that is.
func (g *growing) sync() (int64, error) {
	if err := g.flush(); err != nil {
		return 0, err
	}
	if g.f == nil {
		return g.n, nil
	}
	return g.n, g.f.Sync()
}

// abandon closes the file as it is.
func (g *growing) abandon() {
	if g.f != nil {
		_ = g.f.Close() // what counts was made durable
	}
}

// exists tells whether there is something at a path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
