//go:build !linux

package audit

import "os"

// syncData waits until what the file holds is on disk.
func syncData(f *os.File) error { return f.Sync() }
