package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// parseCSV reads a table whose first line names its columns, in any order. An
// only input whose columns have no names takes the columns in their order.
func parseCSV(data []byte, specs []*inferencev1.TensorSpec, ignore []string) (*dataset, error) {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	r.ReuseRecord = true
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the input is empty; its first line must name the columns")
	}
	if err != nil {
		return nil, err
	}
	header = slices.Clone(header)
	for i := range header {
		header[i] = strings.TrimSpace(header[i])
	}
	places, err := place(header, specs, ignore)
	if err != nil {
		return nil, err
	}

	d := &dataset{inputs: make(map[string]*inferencev1.Tensor, len(specs))}
	for _, spec := range specs {
		d.inputs[spec.GetName()] = emptyTensor(spec)
	}
	rows := int64(0)
	for ; ; rows++ {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		for i, spec := range specs {
			for _, column := range places[i] {
				if err := appendElement(d.inputs[spec.GetName()], record[column]); err != nil {
					line, _ := r.FieldPos(column)
					return nil, fmt.Errorf("line %d, column %q: %w", line, header[column], err)
				}
			}
		}
	}
	if rows == 0 {
		return nil, errors.New("there are no rows below the first line")
	}
	for i, spec := range specs {
		t := d.inputs[spec.GetName()]
		t.Shape = []int64{rows}
		if len(spec.GetShape()) == 2 {
			t.Shape = append(t.Shape, int64(len(places[i])))
		}
	}
	return d, nil
}

// place finds for each input the columns of the header that fill it.
func place(header []string, specs []*inferencev1.TensorSpec, ignore []string) ([][]int, error) {
	for i, name := range header {
		if slices.Contains(header[:i], name) {
			return nil, fmt.Errorf("the first line names column %q twice", name)
		}
	}
	if columns := columnsOf(specs[0]); len(specs) == 1 && columns == nil && len(specs[0].GetShape()) == 2 {
		return placeByOrder(header, specs[0], ignore)
	}
	used := make([]bool, len(header))
	places := make([][]int, len(specs))
	for i, spec := range specs {
		columns := columnsOf(spec)
		if columns == nil {
			return nil, fmt.Errorf("input %q of shape %s cannot be read from a table; send JSON", spec.GetName(), formatShape(spec.GetShape()))
		}
		at := make(map[string]int, len(header))
		for j, name := range header {
			at[name] = j
		}
		var missing []string
		for _, column := range columns {
			j, ok := at[column]
			if !ok {
				missing = append(missing, column)
				continue
			}
			places[i] = append(places[i], j)
			used[j] = true
		}
		if missing != nil {
			return nil, fmt.Errorf("the first line lacks columns of input %q: %s", spec.GetName(), nameSome(missing))
		}
	}
	var unknown []string
	for j, name := range header {
		if !used[j] && !slices.Contains(ignore, name) {
			unknown = append(unknown, name)
		}
	}
	if unknown != nil {
		return nil, fmt.Errorf("the model has no such columns: %s; leave them out with --ignore", nameSome(unknown))
	}
	return places, nil
}

// placeByOrder takes all columns but those ignored, as they come.
func placeByOrder(header []string, spec *inferencev1.TensorSpec, ignore []string) ([][]int, error) {
	var places []int
	names := false
	for j, name := range header {
		if _, err := strconv.ParseFloat(name, 64); err != nil {
			names = true
		}
		if !slices.Contains(ignore, name) {
			places = append(places, j)
		}
	}
	if !names {
		return nil, errors.New("the first line must name the columns, but has only numbers")
	}
	if want := spec.GetShape()[1]; want >= 0 && int64(len(places)) != want {
		return nil, fmt.Errorf("input %q wants %d columns, the first line has %d besides those ignored", spec.GetName(), want, len(places))
	}
	return [][]int{places}, nil
}
