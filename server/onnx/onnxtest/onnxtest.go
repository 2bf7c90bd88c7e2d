// Package onnxtest gives tests the real ONNX Runtime.
package onnxtest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/server/onnx"
)

var shared struct {
	sync.Mutex
	runtime *onnx.Runtime
	users   int
}

// Library is the path of the library that the tests use: what onnx.LibraryEnv
// says, else what `make runtime` puts into bin at the module's root. Without it
// the test fails.
func Library(tb testing.TB) string {
	tb.Helper()
	path := os.Getenv(onnx.LibraryEnv)
	if path == "" {
		path = filepath.Join(root(tb), "bin", onnx.LibraryName())
	}
	if _, err := os.Stat(path); err != nil { //nolint:gosec // the path is the developer's to choose
		tb.Fatalf("no ONNX Runtime library for tests: run make runtime: %v", err)
	}
	return path
}

// Open returns a runtime with the zero Config. The tests that need it at one
// time share it; it is closed after the last of them, which fails if a model is
// still loaded then.
func Open(tb testing.TB) *onnx.Runtime {
	tb.Helper()
	path := Library(tb)
	shared.Lock()
	defer shared.Unlock()
	if shared.users == 0 {
		r, err := onnx.Open(onnx.Config{Library: path})
		if err != nil {
			tb.Fatal(err)
		}
		shared.runtime = r
	}
	shared.users++
	tb.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.users--; shared.users > 0 {
			return
		}
		if err := shared.runtime.Close(); err != nil {
			tb.Error(err)
		}
	})
	return shared.runtime
}

// root is the nearest directory above with a go.mod.
func root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("no go.mod above the test's directory")
		}
		dir = parent
	}
}
