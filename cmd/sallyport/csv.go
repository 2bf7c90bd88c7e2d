package main

import (
	"bytes"
	"errors"
	"io"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// parseCSV reads a table whose first line names its columns, in any order. An
// only input whose columns have no names takes the columns in their order.
func parseCSV(data []byte, specs []*inferencev1.TensorSpec, ignore []string) (*dataset, error) {
	rows, err := table.NewCSV(bytes.NewReader(data), specs, ignore)
	if err != nil {
		return nil, err
	}
	in := table.NewInputs(specs)
	for {
		err := rows.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := rows.Fill(in); err != nil {
			return nil, err
		}
	}
	if in.Rows() == 0 {
		return nil, errors.New("there are no rows below the first line")
	}
	inputs, err := in.Tensors()
	return &dataset{inputs: inputs}, err
}
