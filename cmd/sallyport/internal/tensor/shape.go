package tensor

import (
	"fmt"
	"strings"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Columns are the names of the columns of a table that fill the input, in
// their order; nil if the input is no table or its columns have no names.
func Columns(spec *inferencev1.TensorSpec) []string {
	shape := spec.GetShape()
	switch {
	case len(spec.GetColumns()) > 0:
		return spec.GetColumns()
	case len(shape) == 1, len(shape) == 2 && shape[1] == 1:
		return []string{spec.GetName()}
	}
	return nil
}

// Empty is a tensor of the type that spec describes, without elements.
func Empty(spec *inferencev1.TensorSpec) *inferencev1.Tensor {
	return &inferencev1.Tensor{DataType: spec.GetDataType()}
}

// FitShape is the shape to send for what was given where the model wants want.
// A vector stands for a column of its length.
func FitShape(given, want []int64) ([]int64, error) {
	if len(given) == len(want)-1 && want[len(want)-1] == 1 {
		given = append(given, 1)
	}
	fits := len(given) == len(want)
	for i := range want {
		fits = fits && (want[i] < 0 || want[i] == given[i])
	}
	if !fits {
		return nil, fmt.Errorf("has shape %s, the model wants %s", FormatShape(given), FormatShape(want))
	}
	return given, nil
}

// FormatShape is a shape as people write it: "[N, 30]".
func FormatShape(shape []int64) string {
	dims := make([]string, len(shape))
	for i, d := range shape {
		switch {
		case d >= 0:
			dims[i] = fmt.Sprint(d)
		case i == 0:
			dims[i] = "N"
		default:
			dims[i] = "?"
		}
	}
	return "[" + strings.Join(dims, ", ") + "]"
}

// Names lists names for an error, quoted, and counts those beyond a few.
func Names(names []string) string {
	const most = 6
	quoted := make([]string, 0, most+1)
	for i, n := range names {
		if i == most {
			quoted = append(quoted, fmt.Sprintf("and %d more", len(names)-most))
			break
		}
		quoted = append(quoted, fmt.Sprintf("%q", Abbreviate(n)))
	}
	return strings.Join(quoted, ", ")
}
