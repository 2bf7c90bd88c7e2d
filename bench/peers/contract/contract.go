// Package contract is what the example models ask of their input, in the form
// that peers without our manifests read.
package contract

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/server/model"
)

// Model is a model and its contract.
type Model struct {
	// File is the artefact, Version its version.
	File    string `json:"file"`
	Version int64  `json:"version"`
	// Columns are the features of a row; Min and Max bound each.
	Columns []string  `json:"columns"`
	Min     []float32 `json:"min"`
	Max     []float32 `json:"max"`
	// MaxRows is how many a request may have.
	MaxRows int64 `json:"max_rows"`
}

// Read reads the contract of a version of a model out of the manifest in a model
// repository.
func Read(repository, name string, version int64) (Model, error) {
	path := filepath.Join(repository, name, "model.yaml")
	text, err := os.ReadFile(path) //nolint:gosec // who measures names it
	if err != nil {
		return Model{}, err
	}
	manifest, err := model.ParseManifest(path, text)
	if err != nil {
		return Model{}, err
	}
	m := Model{
		File:    filepath.Join(repository, name, fmt.Sprint(version), "model.onnx"),
		Version: version,
		MaxRows: manifest.GetMaxRows(),
	}
	if len(manifest.GetInputs()) != 1 {
		return Model{}, fmt.Errorf("%s: want one input", path)
	}
	for _, c := range manifest.GetInputs()[0].GetColumns() {
		if c.Min == nil || c.Max == nil {
			return Model{}, fmt.Errorf("%s: column %q has no range", path, c.GetName())
		}
		m.Columns = append(m.Columns, c.GetName())
		m.Min = append(m.Min, float32(c.GetMin()))
		m.Max = append(m.Max, float32(c.GetMax()))
	}
	return m, nil
}
