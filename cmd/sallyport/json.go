package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

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
	top, err := members("", data)
	if err != nil {
		return nil, err
	}
	for _, m := range top {
		if m.name != "inputs" || m.value[0] != '{' {
			continue
		}
		if len(top) > 1 {
			return nil, errors.New(`beside "inputs" there must be nothing else`)
		}
		if top, err = members("inputs", m.value); err != nil {
			return nil, err
		}
		return parseInputs("inputs.", top, specs)
	}
	nested := slices.ContainsFunc(top, func(m member) bool { return m.value[0] == '[' || m.value[0] == '{' })
	byRows := !slices.ContainsFunc(specs, func(s *inferencev1.TensorSpec) bool { return len(s.GetShape()) == 0 })
	if len(top) > 0 && !nested && byRows {
		return parseRows(slices.Concat([]byte("["), data, []byte("]")), specs, ignore)
	}
	return parseInputs("", top, specs)
}

// parseInputs reads one nested array for each input.
func parseInputs(path string, given []member, specs []*inferencev1.TensorSpec) (*dataset, error) {
	d := &dataset{inputs: make(map[string]*inferencev1.Tensor, len(specs))}
	var unknown []string
	for _, m := range given {
		i := slices.IndexFunc(specs, func(s *inferencev1.TensorSpec) bool { return s.GetName() == m.name })
		if i < 0 {
			unknown = append(unknown, m.name)
			continue
		}
		t := emptyTensor(specs[i])
		shape, err := readArray(path+m.name, m.value, t)
		if err != nil {
			return nil, err
		}
		if t.Shape, err = fitShape(shape, specs[i].GetShape()); err != nil {
			return nil, fmt.Errorf("%s: %w", path+m.name, err)
		}
		d.inputs[m.name] = t
	}
	var missing []string
	for _, spec := range specs {
		if d.inputs[spec.GetName()] == nil {
			missing = append(missing, spec.GetName())
		}
	}
	switch {
	case unknown != nil:
		return nil, fmt.Errorf("the model has no such inputs: %s; it has %s", nameSome(unknown), nameSome(inputNames(specs)))
	case missing != nil:
		return nil, fmt.Errorf("inputs are missing: %s", nameSome(missing))
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

// fitShape is the shape to send for what was given where the model wants want.
// A vector stands for a column of its length.
func fitShape(given, want []int64) ([]int64, error) {
	if len(given) == len(want)-1 && want[len(want)-1] == 1 {
		given = append(given, 1)
	}
	fits := len(given) == len(want)
	for i := range want {
		fits = fits && (want[i] < 0 || want[i] == given[i])
	}
	if !fits {
		return nil, fmt.Errorf("has shape %s, the model wants %s", formatShape(given), formatShape(want))
	}
	return given, nil
}

// member is one member of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members are the members of the object that data holds, in their order. A name
// that comes twice is an error: which value is meant?
func members(path string, data []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, at(path, "expected an object")
	}
	var out []member
	seen := make(map[string]bool)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, at(path, err.Error())
		}
		m := member{name: tok.(string)} // what an object has before a value
		if err := dec.Decode(&m.value); err != nil {
			return nil, at(path, err.Error())
		}
		if seen[m.name] {
			return nil, at(path, fmt.Sprintf("%q comes twice", abbreviate(m.name)))
		}
		seen[m.name] = true
		out = append(out, m)
	}
	return out, nil
}

// at is an error at a place of the input.
func at(path, text string) error {
	if path == "" {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %s", path, text)
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
