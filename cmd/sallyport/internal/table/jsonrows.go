package table

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// JSON adds the row that an object holds: a value for every column of every
// input, by its name, or an array for a whole input. Errors say where, beginning
// with path. If it fails nothing is added.
func (in *Inputs) JSON(path string, object []byte, ignore []string) error {
	given, err := Members(path, object)
	if err != nil {
		return err
	}
	return in.members(path, given, ignore)
}

func (in *Inputs) members(path string, given []Member, ignore []string) error {
	values := make(map[string]json.RawMessage, len(given))
	for _, m := range given {
		values[m.Name] = m.Value
	}
	used := make(map[string]bool, len(given))
	prefix := path
	if path != "" {
		prefix += "."
	}
	err := in.row(func(i int, t *inferencev1.Tensor) ([]int64, error) {
		return in.inputs[i].take(path, prefix, values, used, t)
	}, func() error {
		var rest []string
		for _, m := range given {
			if !used[m.Name] {
				rest = append(rest, m.Name)
			}
		}
		if err := unknown(rest, ignore); err != nil {
			return at(path, err.Error())
		}
		return nil
	})
	if shape := (*shapeError)(nil); errors.As(err, &shape) {
		return fmt.Errorf("%s%w", prefix, err)
	}
	return err
}

// take appends the input's part of one row from values to t, and notes in used
// what it took.
func (in *input) take(path, prefix string, values map[string]json.RawMessage, used map[string]bool, t *inferencev1.Tensor) ([]int64, error) {
	name := in.spec.GetName()
	whole, ok := values[name]
	switch {
	case ok && (in.columns == nil || whole[0] == '['):
		used[name] = true
		return tensor.ReadArray(prefix+name, whole, t)
	case in.columns == nil:
		return nil, at(path, fmt.Sprintf("no value for input %q", name))
	}
	var missing []string
	for _, column := range in.columns {
		value, ok := values[column]
		if !ok {
			missing = append(missing, column)
			continue
		}
		used[column] = true
		if value[0] == '[' {
			return nil, at(prefix+column, "expected "+tensor.Expected(in.spec.GetDataType())+", got an array")
		}
		if _, err := tensor.ReadArray(prefix+column, value, t); err != nil {
			return nil, err
		}
	}
	if missing != nil {
		return nil, at(path, "columns are missing: "+tensor.Names(missing))
	}
	if len(in.spec.GetShape()) == 1 {
		return nil, nil
	}
	return []int64{int64(len(in.columns))}, nil
}
