package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestImportsFlowOneWay holds identity ← interceptors ← server ← cmd, also
// where the linter does not run.
func TestImportsFlowOneWay(t *testing.T) {
	const module = "github.com/sallyport/sallyport/"
	forbidden := map[string][]string{
		"identity":            {module + "interceptors", module + "server", module + "cmd", module + "gen"},
		"interceptors":        {module + "server", module + "cmd", module + "gen/go/sallyport/inference"},
		"interceptors/policy": {"google.golang.org/grpc", module + "interceptors/"},
		"interceptors/quota":  {"google.golang.org/grpc", module + "interceptors/", module + "gen", "github.com/redis"},
		// The one package that speaks to Redis; it knows the engine and nothing else.
		"interceptors/quota/redisstore": {"google.golang.org/grpc", module + "interceptors/policy", module + "interceptors/audit", module + "gen", module + "identity"},
		"interceptors/audit":            {"google.golang.org/grpc", module + "interceptors/policy", module + "interceptors/quota"},
		"server":                        {module + "cmd"},
		"server/model":                  {"google.golang.org/grpc", module + "interceptors", module + "identity", module + "gen/go/sallyport/inference", module + "server/inference"},
		"server/onnx":                   {"google.golang.org/grpc", module + "interceptors", module + "identity", module + "gen", module + "server/inference"},
		"server/schedule":               {module},
		"proto/configfile":              {module + "identity", module + "interceptors", module + "server", module + "cmd"},
		"identity/devauthority":         {module + "identity/identitytest"},
		"identity/svidfiles":            {module + "identity/identitytest", module + "identity/devauthority"},
		"server/inference":              {module + "server/onnx"},
		"clients/go":                    {module + "interceptors", module + "server", module + "cmd"},
	}
	root := filepath.Join("..", "..")
	for dir, banned := range forbidden {
		files := 0
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				if at, err := filepath.Rel(root, path); err == nil && at != dir && forbidden[filepath.ToSlash(at)] != nil {
					return filepath.SkipDir // it has a rule of its own
				}
			}
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files++
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, spec := range f.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				for _, b := range banned {
					if strings.HasPrefix(imported, b) {
						t.Errorf("%s imports %s", path, imported)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if files == 0 {
			t.Errorf("no Go file in %s", dir)
		}
	}
}
