package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

const (
	// maxInput is the most that is read from a file or standard input.
	maxInput = 64 << 20
	// labelColumn is the column that holds the truth, where a file has it. It is
	// not sent unless the model has an input of that name.
	labelColumn = "label"
)

// dataset is what a file holds for a model.
type dataset struct {
	// inputs are the model's inputs by name.
	inputs map[string]*inferencev1.Tensor
	// rows is their number of rows; 0 if the model does not work by rows, so that
	// the inputs cannot be cut into batches.
	rows int
}

// readInput reads all of a file, or of stdin if its name is "-".
func readInput(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the file that the user named
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read input: %w", err)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("%s is larger than %d MiB; split it", name, maxInput>>20)
	}
	return data, nil
}

// formatOf is the format of a file by its name, or else by its first character:
// "csv" or "json".
func formatOf(name string, data []byte) string {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		return "csv"
	case ".json":
		return "json"
	}
	start := bytes.TrimLeft(data, " \t\r\n")
	if len(start) > 0 && (start[0] == '{' || start[0] == '[') {
		return "json"
	}
	return "csv"
}

// parseInput turns a file's content into the inputs that specs describe. Columns
// named by ignore, and labelColumn, are left aside.
func parseInput(format string, data []byte, specs []*inferencev1.TensorSpec, ignore []string) (*dataset, error) {
	if len(specs) == 0 {
		return nil, errors.New("the model takes no inputs")
	}
	ignore = append(slices.Clip(ignore), labelColumn)
	read := parseCSV
	if format == "json" {
		read = parseJSON
	}
	d, err := read(data, specs, ignore)
	if err != nil {
		return nil, err
	}
	d.rows, err = countRows(d.inputs, specs)
	return d, err
}

// countRows is the number of rows that all inputs have; 0 if the model does not
// work by rows.
func countRows(inputs map[string]*inferencev1.Tensor, specs []*inferencev1.TensorSpec) (int, error) {
	rows, of := int64(-1), ""
	for _, spec := range specs {
		if len(spec.GetShape()) == 0 || spec.GetShape()[0] != -1 {
			return 0, nil
		}
		switch n := inputs[spec.GetName()].GetShape()[0]; {
		case n == 0:
			return 0, fmt.Errorf("%s has no rows", spec.GetName())
		case rows < 0:
			rows, of = n, spec.GetName()
		case rows != n:
			return 0, fmt.Errorf("%s has %d rows, but %s has %d", spec.GetName(), n, of, rows)
		}
	}
	return int(rows), nil
}
