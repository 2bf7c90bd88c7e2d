package model

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// settleTime is longer than a step of any file system's clock. A file that
// changed less than this before it was read may change again unseen.
const settleTime = 2 * time.Second

// stamp recognises a file that has not changed since it was read.
type stamp struct {
	info    fs.FileInfo
	settled bool
}

func (s stamp) same(info fs.FileInfo) bool {
	return s.settled && os.SameFile(s.info, info) && s.info.Size() == info.Size() && s.info.ModTime().Equal(info.ModTime())
}

// read reads a regular file within root of at most limit bytes.
func read(root *os.Root, path string, limit int64) ([]byte, stamp, error) {
	// Opening a named pipe would wait for a writer.
	f, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, stamp{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	st := stamp{info: info, settled: time.Since(info.ModTime()) > settleTime}
	switch {
	case !info.Mode().IsRegular():
		return nil, st, errors.New("not a regular file")
	case info.Size() > limit:
		return nil, st, fmt.Errorf("larger than %d bytes", limit)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, stamp{}, fmt.Errorf("it shrank while it was read: %w", err)
	}
	if n, _ := f.Read(make([]byte, 1)); n != 0 {
		return nil, stamp{}, errors.New("it grew while it was read")
	}
	return data, st, nil
}
