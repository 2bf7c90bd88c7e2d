package onnx_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// TestFetchRuntime runs the script without Python, so that it can only judge
// what is there, and with a pip that cannot reach an index.
func TestFetchRuntime(t *testing.T) {
	t.Setenv(onnx.LibraryEnv, "") // what the script has fetched
	library, err := os.ReadFile(onnxtest.Library(t))
	if err != nil {
		t.Fatal(err)
	}
	altered := append([]byte(nil), library...)
	altered[len(altered)/2] ^= 1
	for name, test := range map[string]struct {
		library []byte
		python  string
		want    string
	}{
		"the pinned library is there": {library, "no-python", ""},
		"another library is there":    {altered, "no-python", "fetch-runtime: no-python with pip is needed"},
		"nothing is there":            {nil, "no-python", "fetch-runtime: no-python with pip is needed"},
		"pip is offline":              {nil, "python3", "offline?"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var before []string
			if test.library != nil {
				before = []string{"libonnxruntime.LICENSE", "libonnxruntime.NOTICES", "libonnxruntime.so"}
			}
			for _, file := range before {
				if err := os.WriteFile(filepath.Join(dir, file), test.library, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), "./fetch-runtime.sh", dir)
			cmd.Env = append(os.Environ(), "PYTHON="+test.python, "PIP_NO_INDEX=1", "PIP_FIND_LINKS="+dir)
			out, err := cmd.CombinedOutput()
			if (err == nil) != (test.want == "") || !strings.Contains(string(out), test.want) {
				t.Errorf("%v: %s, want %q", err, out, test.want)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var after []string
			for _, entry := range entries {
				after = append(after, entry.Name())
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("files: %s", diff)
			}
		})
	}
}
