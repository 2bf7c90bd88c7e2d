package table

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// All, among the columns to ignore, stands for all that the model does not know.
const All = "*"

// place finds for each input the columns of the header that fill it. where is
// what names the columns, for errors.
func place(where string, header []string, specs []*inferencev1.TensorSpec, ignore []string) ([][]int, error) {
	for i, name := range header {
		if slices.Contains(header[:i], name) {
			return nil, fmt.Errorf("%s names column %q twice", where, name)
		}
	}
	if columns := tensor.Columns(specs[0]); len(specs) == 1 && columns == nil && len(specs[0].GetShape()) == 2 {
		return placeByOrder(where, header, specs[0], ignore)
	}
	used := make([]bool, len(header))
	places := make([][]int, len(specs))
	for i, spec := range specs {
		columns := tensor.Columns(spec)
		if columns == nil {
			return nil, fmt.Errorf("input %q of shape %s cannot be read from a table; send JSON", spec.GetName(), tensor.FormatShape(spec.GetShape()))
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
			return nil, fmt.Errorf("%s lacks columns of input %q: %s", where, spec.GetName(), tensor.Names(missing))
		}
	}
	var rest []string
	for j, name := range header {
		if !used[j] {
			rest = append(rest, name)
		}
	}
	return places, unknown(rest, ignore)
}

// ErrUnknownColumns is that a table has columns of which the model does not know.
var ErrUnknownColumns = errors.New("the model has no such columns")

// unknown refuses columns that the model does not know, unless they are ignored.
func unknown(names, ignore []string) error {
	if slices.Contains(ignore, All) {
		return nil
	}
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(ignore, name) })
	if len(names) > 0 {
		return fmt.Errorf("%w: %s; leave them out with --ignore", ErrUnknownColumns, tensor.Names(names))
	}
	return nil
}

// placeByOrder takes all columns but those ignored, as they come.
func placeByOrder(where string, header []string, spec *inferencev1.TensorSpec, ignore []string) ([][]int, error) {
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
		return nil, fmt.Errorf("%s must name the columns, but has only numbers", where)
	}
	if want := spec.GetShape()[1]; want >= 0 && int64(len(places)) != want {
		return nil, fmt.Errorf("input %q wants %d columns, %s has %d besides those ignored", spec.GetName(), want, where, len(places))
	}
	return [][]int{places}, nil
}
