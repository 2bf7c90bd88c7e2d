package onnx_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// findLibrary, set in the environment, makes the test binary print what
// FindLibrary says and exit, so that it can be asked from elsewhere.
const findLibrary = "SALLYPORT_TEST_FIND_LIBRARY"

func TestMain(m *testing.M) {
	if os.Getenv(findLibrary) == "" {
		m.Run()
		return
	}
	path, err := onnx.FindLibrary("")
	if err != nil {
		path = err.Error()
	}
	_, _ = io.WriteString(os.Stdout, path)
}

func TestFindLibrary(t *testing.T) {
	dir := t.TempDir()
	configured, fromEnv := filepath.Join(dir, "configured"), filepath.Join(dir, "env")
	for _, path := range []string{configured, fromEnv} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	missing := filepath.Join(dir, "missing")
	for name, test := range map[string]struct {
		configured, env string
		want, fault     string
	}{
		"configured":              {configured, "", configured, ""},
		"configured before env":   {configured, fromEnv, configured, ""},
		"env":                     {"", fromEnv, fromEnv, ""},
		"configured, missing":     {missing, fromEnv, "", "the configured library names " + missing + ", which does not exist; run `make runtime`"},
		"env, missing":            {"", missing, "", "SALLYPORT_ONNXRUNTIME names " + missing + ", which does not exist; run `make runtime`"},
		"configured, a folder":    {dir, "", "", "a directory"},
		"neither, and no library": {"", "", "", "SALLYPORT_ONNXRUNTIME is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(onnx.LibraryEnv, test.env)
			got, err := onnx.FindLibrary(test.configured)
			switch {
			case test.fault == "" && (err != nil || got != test.want):
				t.Errorf("got %q and %v, want %q", got, err, test.want)
			case test.fault != "" && (err == nil || !strings.Contains(err.Error(), test.fault)):
				t.Errorf("got %q and %v, want %q", got, err, test.fault)
			}
		})
	}
}

func TestFindLibraryNearExecutable(t *testing.T) {
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	bin, lib := filepath.Join(root, "bin"), filepath.Join(root, "lib")
	for _, dir := range []string{bin, lib} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	binary, err := os.ReadFile(executable)
	if err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(bin, "sallyport")
	if err := os.WriteFile(moved, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	ask := func() string {
		cmd := exec.CommandContext(t.Context(), moved)
		cmd.Env = append(os.Environ(), findLibrary+"=1", onnx.LibraryEnv+"=")
		out, _ := cmd.Output()
		return string(out)
	}
	beside, inLib := filepath.Join(bin, onnx.LibraryName()), filepath.Join(lib, onnx.LibraryName())
	if got := ask(); !strings.Contains(got, beside) || !strings.Contains(got, inLib) || !strings.Contains(got, "make runtime") {
		t.Errorf("with no library: %q, want both places and what to do", got)
	}
	for _, path := range []string{inLib, beside} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ask(); got != path {
			t.Errorf("got %q, want %q", got, path)
		}
	}
}

func TestOpenRefusesOtherLibraries(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(onnxtest.Library(t))
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.so")
	if err := os.WriteFile(cut, whole[:1000000], 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ path, want string }{
		"too old":         {oldLibrary(t, "VERS_1.23.2"), "is ONNX Runtime 1.23.2; 1.24 or newer is needed (`make runtime`"},
		"too old, silent": {oldLibrary(t, ""), "is not a library of ONNX Runtime 1.24 or newer"},
		"not a library":   {text, "is not a library of ONNX Runtime 1.24 or newer"},
		"cut off":         {cut, "is cut off or damaged"},
		"missing":         {filepath.Join(dir, "missing"), "is not a library of ONNX Runtime 1.24 or newer"},
	} {
		t.Run(name, func(t *testing.T) {
			rt, err := onnx.Open(onnx.Config{Library: test.path})
			if err == nil {
				_ = rt.Close()
				t.Fatal("opened")
			}
			if text := err.Error(); !strings.Contains(text, test.path+" "+test.want) {
				t.Errorf("got %q, want %q", text, test.path+" "+test.want)
			}
		})
	}
	onnxtest.Open(t) // nothing of them is left
}

// oldLibrary builds a library that has ONNX Runtime's entry point but not the
// API that is asked for.
func oldLibrary(t *testing.T, version string) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		version = ""
	}
	dir := t.TempDir()
	source, script, library := filepath.Join(dir, "old.c"), filepath.Join(dir, "old.map"), filepath.Join(dir, "old.so")
	for path, text := range map[string]string{
		source: `#include <stdint.h>
struct base { const void *(*api)(uint32_t); const char *(*version)(void); };
static const void *api(uint32_t version) { return version > 23 ? 0 : &api; }
static const char *version(void) { return "1.23.2"; }
static const struct base base = { api, version };
const struct base *OrtGetApiBase(void) { return &base; }
`,
		script: fmt.Sprintf("%s { global: *; };\n", version),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-shared", "-fPIC", "-o", library, source}
	if version != "" {
		args = append(args, "-Wl,--version-script="+script)
	}
	if out, err := exec.CommandContext(t.Context(), "cc", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return library
}
