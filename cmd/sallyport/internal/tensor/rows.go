package tensor

import (
	"errors"
	"fmt"
	"slices"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Cut returns rows from to to (excluded) of every tensor. They share memory
// with the originals.
func Cut(tensors map[string]*inferencev1.Tensor, from, to int) map[string]*inferencev1.Tensor {
	out := make(map[string]*inferencev1.Tensor, len(tensors))
	for name, t := range tensors {
		per := 1
		for _, d := range t.GetShape()[1:] {
			per *= int(d)
		}
		shape := slices.Clone(t.GetShape())
		shape[0] = int64(to - from)
		first, last, size := from*per, to*per, Width(t.GetDataType())
		out[name] = &inferencev1.Tensor{
			DataType:     t.GetDataType(),
			Shape:        shape,
			Raw:          cut(t.GetRaw(), first*size, last*size),
			BoolValues:   cut(t.GetBoolValues(), first, last),
			Int64Values:  cut(t.GetInt64Values(), first, last),
			Uint64Values: cut(t.GetUint64Values(), first, last),
			FloatValues:  cut(t.GetFloatValues(), first, last),
			DoubleValues: cut(t.GetDoubleValues(), first, last),
			StringValues: cut(t.GetStringValues(), first, last),
		}
	}
	return out
}

func cut[T any](s []T, from, to int) []T {
	if len(s) == 0 {
		return nil
	}
	return s[from:to:to]
}

// ErrNotRows says that an output cannot be put together from several batches.
var ErrNotRows = errors.New("its parts do not go together: send all rows in one batch")

// Join puts the parts of one tensor together, one below the other. Parts
// must have passed Check.
func Join(parts []*inferencev1.Tensor) (*inferencev1.Tensor, error) {
	first := parts[0]
	if len(first.GetShape()) == 0 {
		return nil, ErrNotRows
	}
	out := &inferencev1.Tensor{DataType: first.GetDataType(), Shape: slices.Clone(first.GetShape())}
	out.Shape[0] = 0
	for _, p := range parts {
		if p.GetDataType() != out.DataType || len(p.GetShape()) != len(out.Shape) || !slices.Equal(p.GetShape()[1:], out.Shape[1:]) {
			return nil, ErrNotRows
		}
		out.Shape[0] += p.GetShape()[0]
		out.Raw = append(out.Raw, p.GetRaw()...)
		out.BoolValues = append(out.BoolValues, p.GetBoolValues()...)
		out.Int64Values = append(out.Int64Values, p.GetInt64Values()...)
		out.Uint64Values = append(out.Uint64Values, p.GetUint64Values()...)
		out.FloatValues = append(out.FloatValues, p.GetFloatValues()...)
		out.DoubleValues = append(out.DoubleValues, p.GetDoubleValues()...)
		out.StringValues = append(out.StringValues, p.GetStringValues()...)
	}
	if err := Check(out); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotRows, err) // raw in one part, typed in another
	}
	return out, nil
}

// Pick returns some rows of every tensor, given in ascending order. Rows that follow
// one another share memory with the originals.
func Pick(tensors map[string]*inferencev1.Tensor, rows []int) (map[string]*inferencev1.Tensor, error) {
	var cuts []map[string]*inferencev1.Tensor
	for from := 0; from < len(rows); {
		to := from + 1
		for to < len(rows) && rows[to] == rows[to-1]+1 {
			to++
		}
		cuts = append(cuts, Cut(tensors, rows[from], rows[to-1]+1))
		from = to
	}
	if len(cuts) == 1 {
		return cuts[0], nil
	}
	out := make(map[string]*inferencev1.Tensor, len(tensors))
	for name := range tensors {
		var parts []*inferencev1.Tensor
		for _, c := range cuts {
			parts = append(parts, c[name])
		}
		var err error
		if out[name], err = Join(parts); err != nil {
			return nil, err
		}
	}
	return out, nil
}
