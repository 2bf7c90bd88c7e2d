package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// parseJSON reads inputs as nested arrays, {"inputs": {"name": [[...]]}} or
// {"name": [[...]]}, or as rows: a list of objects with a value for each column,
// or one such object.
func parseJSON(data []byte, specs []*inferencev1.TensorSpec, ignore []string) (*dataset, error) {
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	data = bytes.TrimSpace(data)
	switch data[0] {
	case '[':
		return parseRows(data, specs, ignore)
	case '{':
	default:
		return nil, errors.New("expected an object or a list of rows")
	}
	top, err := table.Members("", data)
	if err != nil {
		return nil, err
	}
	for _, m := range top {
		if m.Name != "inputs" || m.Value[0] != '{' {
			continue
		}
		if len(top) > 1 {
			return nil, errors.New(`beside "inputs" there must be nothing else`)
		}
		if top, err = table.Members("inputs", m.Value); err != nil {
			return nil, err
		}
		return parseInputs("inputs.", top, specs)
	}
	nested := slices.ContainsFunc(top, func(m table.Member) bool { return m.Value[0] == '[' || m.Value[0] == '{' })
	byRows := !slices.ContainsFunc(specs, func(s *inferencev1.TensorSpec) bool { return len(s.GetShape()) == 0 })
	if len(top) > 0 && !nested && byRows {
		return parseRows(slices.Concat([]byte("["), data, []byte("]")), specs, ignore)
	}
	return parseInputs("", top, specs)
}

// parseRows reads a list of objects. Each has a value for every column of every
// input, by its name, or an array for a whole input.
func parseRows(data []byte, specs []*inferencev1.TensorSpec, ignore []string) (*dataset, error) {
	in := table.NewInputs(specs)
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	for n := 0; dec.More(); n++ {
		var row json.RawMessage
		if err := dec.Decode(&row); err != nil {
			return nil, err
		}
		if err := in.JSON(fmt.Sprintf("[%d]", n), row, ignore); err != nil {
			return nil, err
		}
	}
	if in.Rows() == 0 {
		return nil, errors.New("the list has no rows")
	}
	inputs, err := in.Tensors()
	return &dataset{inputs: inputs}, err
}

// parseInputs reads one nested array for each input.
func parseInputs(path string, given []table.Member, specs []*inferencev1.TensorSpec) (*dataset, error) {
	d := &dataset{inputs: make(map[string]*inferencev1.Tensor, len(specs))}
	var unknown []string
	for _, m := range given {
		i := slices.IndexFunc(specs, func(s *inferencev1.TensorSpec) bool { return s.GetName() == m.Name })
		if i < 0 {
			unknown = append(unknown, m.Name)
			continue
		}
		t := tensor.Empty(specs[i])
		shape, err := tensor.ReadArray(path+m.Name, m.Value, t)
		if err != nil {
			return nil, err
		}
		if t.Shape, err = tensor.FitShape(shape, specs[i].GetShape()); err != nil {
			return nil, fmt.Errorf("%s: %w", path+m.Name, err)
		}
		d.inputs[m.Name] = t
	}
	var missing []string
	for _, spec := range specs {
		if d.inputs[spec.GetName()] == nil {
			missing = append(missing, spec.GetName())
		}
	}
	switch {
	case unknown != nil:
		return nil, fmt.Errorf("the model has no such inputs: %s; it has %s", tensor.Names(unknown), tensor.Names(inputNames(specs)))
	case missing != nil:
		return nil, fmt.Errorf("inputs are missing: %s", tensor.Names(missing))
	}
	return d, nil
}

func inputNames(specs []*inferencev1.TensorSpec) []string {
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.GetName()
	}
	return names
}

// checkJSON makes sure that data holds one value and nothing else, with the
// line of what is wrong.
func checkJSON(data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("the input is empty")
	}
	var whole json.RawMessage
	err := json.Unmarshal(data, &whole)
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		before := data[:min(max(int(syntax.Offset)-1, 0), len(data))]
		return fmt.Errorf("line %d: not JSON: %s", 1+bytes.Count(before, []byte("\n")), strings.TrimPrefix(syntax.Error(), "json: "))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON is cut off")
	}
	return err
}
