package model_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/server/model"
)

func TestParseManifest(t *testing.T) {
	got, err := model.ParseManifest("model.yaml", []byte(`# what it is
description: a model
max_rows: 10
inputs:
  - name: x
    min: 0.5
    columns: [{name: a, max: 3}, {name: b}]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &configv1.ModelManifest{
		Description: "a model",
		MaxRows:     10,
		Inputs: []*configv1.InputContract{{
			Name:    "x",
			Min:     new(0.5),
			Columns: []*configv1.Column{{Name: "a", Max: new(3.0)}, {Name: "b"}},
		}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	const path = "models/x/model.yaml"
	for name, tt := range map[string]struct{ yaml, want string }{
		"rule broken":       {"description: x\nmax_rows: -1\n", path + ":2:11 max_rows: must be"},
		"unknown field":     {"max_rowz: 1\n", path + `:1:1 unknown field "max_rowz"`},
		"wrong type":        {"max_rows: many\n", path + ":1:11 "},
		"same input twice":  {"inputs: [{name: x}, {name: x}]\n", "(manifest.inputs.unique)"},
		"same column twice": {"inputs: [{name: x, columns: [{name: a}, {name: a}]}]\n", "(input.columns.unique)"},
		"range upside down": {"inputs: [{name: x, min: 2, max: 1}]\n", "(input.range)"},
		"empty":             {"", path + ": empty"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := model.ParseManifest(path, []byte(tt.yaml))
			if err == nil {
				t.Fatalf("accepted: %v", m)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want it to contain %q", err, tt.want)
			}
		})
	}
}

// Whatever the bytes, there is a manifest or an error that names the file.
func FuzzParseManifest(f *testing.F) {
	for _, seed := range []string{
		"description: x\nmax_rows: 5\noutputs: [label]\n",
		"inputs:\n  - name: x\n    min: -inf\n    allowed_numbers: [1, nan, 1e400]\n",
		"inputs: [{name: x, columns: [{name: a, min: 0}]}]\r\n",
		"&a [*a]", "a: !!binary x", "? {}\n: 1\n", "max_rows: 1\rx: 2\ry: 3", "\xff\xfe", "%YAML 1.1\n---\n{}\n...\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := model.ParseManifest("model.yaml", data)
		if (m == nil) == (err == nil) {
			t.Fatalf("manifest %v, error %v", m, err)
		}
		if err != nil && !strings.Contains(err.Error(), "model.yaml") {
			t.Errorf("%q does not name the file", err)
		}
	})
}
