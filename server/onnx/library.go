package onnx

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// LibraryEnv is the environment variable that names ONNX Runtime's library.
const LibraryEnv = "SALLYPORT_ONNXRUNTIME"

// oldest is the minor version of ONNX Runtime 1 whose C API onnxruntime_go
// asks for.
const oldest = 24

// LibraryName is the file name of ONNX Runtime's library on this system.
func LibraryName() string {
	if runtime.GOOS == "darwin" {
		return "libonnxruntime.dylib"
	}
	return "libonnxruntime.so"
}

// FindLibrary returns the path of ONNX Runtime's library. Configured, if it is
// not empty, is the path; else LibraryEnv, if it is set; else the library is
// looked for beside the executable and in ../lib from there. The error names
// every place that was looked at. A path that somebody gave is never passed
// over for another.
func FindLibrary(configured string) (string, error) {
	if configured != "" {
		return configured, isFile(configured, "the configured library")
	}
	if path := os.Getenv(LibraryEnv); path != "" {
		return path, isFile(path, LibraryEnv)
	}
	executable, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find ONNX Runtime: %w", err)
	}
	dir := filepath.Dir(executable)
	places := []string{
		filepath.Join(dir, LibraryName()),
		filepath.Join(filepath.Dir(dir), "lib", LibraryName()),
	}
	for _, path := range places {
		if isFile(path, "") == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no ONNX Runtime library: %s is not set, and there is neither %s; "+
		"run `make runtime`, or set %s to the library of ONNX Runtime 1.%d or newer",
		LibraryEnv, strings.Join(places, " nor "), LibraryEnv, oldest)
}

func isFile(path, what string) error {
	info, err := os.Stat(path) //nolint:gosec // the path is the operator's to choose
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no ONNX Runtime library: %s names %s, which does not exist; run `make runtime`", what, path)
	case err != nil:
		return fmt.Errorf("find ONNX Runtime: %s: %w", what, err)
	case info.IsDir():
		return fmt.Errorf("no ONNX Runtime library: %s names %s, a directory; it must be the library itself", what, path)
	}
	return nil
}

// checkVersion refuses a library that says it is too old. ONNX Runtime names
// its symbols' version after its own, as "VERS_1.31.1", so an ELF library can be
// asked before it is loaded; any other is let through for the loader to judge.
func checkVersion(path string) error {
	if !isELF(path) {
		return nil // loading it will tell
	}
	file, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is cut off or damaged: %w (`make runtime` fetches it)", path, err)
	}
	defer func() { _ = file.Close() }()
	if err := checkWhole(path, file); err != nil {
		return err
	}
	versions, _ := file.DynamicVersions() // none if it has none
	for _, v := range versions {
		version, ok := strings.CutPrefix(v.Name, "VERS_")
		if ok && !newEnough(version) {
			return fmt.Errorf("%s is ONNX Runtime %s; 1.%d or newer is needed (`make runtime` fetches it)", path, version, oldest)
		}
	}
	return nil
}

func isELF(path string) bool {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	magic := make([]byte, len(elf.ELFMAG))
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == elf.ELFMAG
}

// checkWhole refuses a file that was cut off: what is mapped beyond the end of a
// file ends the process when it is touched.
func checkWhole(path string, file *elf.File) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	for _, p := range file.Progs {
		if end := p.Off + p.Filesz; p.Type == elf.PT_LOAD && end > uint64(info.Size()) { //nolint:gosec // sizes are not negative
			return fmt.Errorf("%s is cut off: %d bytes, its segments need %d (`make runtime` fetches it)", path, info.Size(), end)
		}
	}
	return nil
}

func newEnough(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return major == "1" && err == nil && n >= oldest
}
