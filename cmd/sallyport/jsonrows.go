package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// parseRows reads a list of objects. Each has a value for every column of every
// input, by its name, or an array for a whole input.
func parseRows(data []byte, specs []*inferencev1.TensorSpec, ignore []string) (*dataset, error) {
	r := &rowReader{ignore: ignore}
	for _, spec := range specs {
		r.inputs = append(r.inputs, &rowInput{
			spec:    spec,
			columns: columnsOf(spec),
			tensor:  emptyTensor(spec),
		})
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	n := 0
	for ; dec.More(); n++ {
		var row json.RawMessage
		if err := dec.Decode(&row); err != nil {
			return nil, err
		}
		if err := r.read(fmt.Sprintf("[%d]", n), row); err != nil {
			return nil, err
		}
	}
	if n == 0 {
		return nil, errors.New("the list has no rows")
	}
	d := &dataset{inputs: make(map[string]*inferencev1.Tensor, len(specs))}
	for _, in := range r.inputs {
		shape, err := fitShape(append([]int64{int64(n)}, in.rest...), in.spec.GetShape())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.spec.GetName(), err)
		}
		in.tensor.Shape = shape
		d.inputs[in.spec.GetName()] = in.tensor
	}
	return d, nil
}

type rowReader struct {
	inputs []*rowInput
	ignore []string
}

// rowInput is an input that is filled row by row.
type rowInput struct {
	spec    *inferencev1.TensorSpec
	columns []string
	tensor  *inferencev1.Tensor
	// rest is the shape of one row, as the first row has it, once started.
	rest    []int64
	started bool
}

func (r *rowReader) read(path string, row json.RawMessage) error {
	given, err := members(path, row)
	if err != nil {
		return err
	}
	values := make(map[string]json.RawMessage, len(given))
	for _, m := range given {
		values[m.name] = m.value
	}
	used := make(map[string]bool, len(given))
	for _, in := range r.inputs {
		if err := in.read(path, values, used); err != nil {
			return err
		}
	}
	var unknown []string
	for _, m := range given {
		if !used[m.name] && !slices.Contains(r.ignore, m.name) {
			unknown = append(unknown, m.name)
		}
	}
	if unknown != nil {
		return at(path, fmt.Sprintf("the model has no such columns: %s; leave them out with --ignore", nameSome(unknown)))
	}
	return nil
}

// read takes the input's part of one row from values and notes in used what it
// took.
func (in *rowInput) read(path string, values map[string]json.RawMessage, used map[string]bool) error {
	name := in.spec.GetName()
	rest := []int64{int64(len(in.columns))}
	whole, ok := values[name]
	switch {
	case ok && (in.columns == nil || whole[0] == '['):
		used[name] = true
		var err error
		if rest, err = readArray(path+"."+name, whole, in.tensor); err != nil {
			return err
		}
	case in.columns == nil:
		return at(path, fmt.Sprintf("no value for input %q", name))
	default:
		var missing []string
		for _, column := range in.columns {
			value, ok := values[column]
			if !ok {
				missing = append(missing, column)
				continue
			}
			used[column] = true
			if value[0] == '[' {
				return at(path+"."+column, "expected "+expected(in.spec.GetDataType())+", got an array")
			}
			if _, err := readArray(path+"."+column, value, in.tensor); err != nil {
				return err
			}
		}
		if missing != nil {
			return at(path, "columns are missing: "+nameSome(missing))
		}
		if len(in.spec.GetShape()) == 1 {
			rest = rest[:0]
		}
	}
	if !in.started {
		in.rest, in.started = rest, true
	}
	if !slices.Equal(rest, in.rest) {
		return at(path+"."+name, fmt.Sprintf("has shape %s, the rows before it %s", formatShape(rest), formatShape(in.rest)))
	}
	return nil
}
