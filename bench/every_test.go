package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/server/onnx"
)

// TestMain lets the test binary be the bench command: it is what starts the bare
// server.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "bare" {
		main()
		return
	}
	m.Run()
}

// TestEveryCase runs each command for a moment: whether all it measures still
// works, not what comes of it.
func TestEveryCase(t *testing.T) {
	library := os.Getenv(onnx.LibraryEnv)
	if library == "" {
		library = filepath.Join("..", "bin", onnx.LibraryName())
	}
	if _, err := os.Stat(library); err != nil {
		t.Fatalf("no ONNX Runtime: run make runtime: %v", err)
	}
	sallyport := filepath.Join(t.TempDir(), "sallyport")
	build := exec.Command("go", "build", "-o", sallyport, "./cmd/sallyport")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	gates := filepath.Join(t.TempDir(), "gates.txt")
	printed := "BenchmarkGates/bare-2  100 1200 ns/op 872 B/op 12 allocs/op\nBenchmarkGates/all-2  100 9200 ns/op 6606 B/op 88 allocs/op\n"
	if err := os.WriteFile(gates, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"run":      {"RESULTS.md", "## Unary calls", "## Streams", "ONNX Runtime alone", "| all | 9200 |", "plots/unary.svg"},
		"grow":     {"GROWTH.md", "## Rows a batch", "## Policy rules"},
		"overload": {"OVERLOAD.md", "the audit log verifies", "0 missing, 0 twice"},
		"soak":     {"SOAK.md", " failed", "goroutines"}, // a busy machine may refuse some
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			args := []string{name, "--length", "moment", "--sallyport", sallyport, "--library", library, "--root", "..", "--out", out}
			if name == "run" {
				args = append(args, "--gates", gates)
			}
			root := newRoot()
			root.SetArgs(args)
			var said strings.Builder
			root.SetErr(&said)
			root.SetOut(&said)
			if err := root.ExecuteContext(t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, said.String())
			}
			text, err := os.ReadFile(filepath.Join(out, want[0]))
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range want[1:] {
				if !strings.Contains(string(text), w) {
					t.Errorf("no %q in %s:\n%s", w, want[0], text)
				}
			}
			if strings.Contains(string(text), "NaN") || strings.Contains(string(text), "Inf") {
				t.Errorf("figures that are none in %s:\n%s", want[0], text)
			}
			plots, err := filepath.Glob(filepath.Join(out, "plots", "*.svg"))
			if err != nil || len(plots) == 0 {
				t.Errorf("no plots: %v", err)
			}
		})
	}
}
