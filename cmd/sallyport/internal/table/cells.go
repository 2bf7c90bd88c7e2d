package table

import (
	"errors"
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/float16"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// suits tells whether a column of a type can fill a tensor of another: integers
// and floating-point numbers a floating-point tensor, rounded as text is; integers
// an integer tensor, if each fits; strings and truths only their own.
func suits(column arrow.DataType, d inferencev1.DataType) bool {
	id := column.ID()
	switch id { //nolint:exhaustive // the rest is no value of a tensor
	case arrow.DICTIONARY:
		return suits(column.(*arrow.DictionaryType).ValueType, d)
	case arrow.EXTENSION:
		return suits(column.(arrow.ExtensionType).StorageType(), d)
	case arrow.STRING, arrow.LARGE_STRING, arrow.STRING_VIEW:
		return d == inferencev1.DataType_DATA_TYPE_STRING
	case arrow.BOOL:
		return d == inferencev1.DataType_DATA_TYPE_BOOL
	case arrow.FLOAT16, arrow.FLOAT32, arrow.FLOAT64:
		return tensor.IsFloat(d)
	}
	return arrow.IsInteger(id) && d != inferencev1.DataType_DATA_TYPE_STRING && d != inferencev1.DataType_DATA_TYPE_BOOL
}

// listed is what lists of a type hold in the end, and how deep they go.
func listed(column arrow.DataType) (of arrow.DataType, depth int) {
	for {
		list, ok := column.(arrow.ListLikeType)
		if !ok || column.ID() == arrow.MAP {
			return column, depth
		}
		column = list.Elem()
		depth++
	}
}

// cell appends the value of a row to a tensor.
type cell func(t *inferencev1.Tensor, row int) error

// cells reads a column, whose type suits the tensor that it fills.
func cells(column arrow.Array) (cell, error) {
	switch c := column.(type) {
	case *array.Float64:
		return func(t *inferencev1.Tensor, row int) error { return tensor.AppendFloat(t, c.Value(row)) }, nil
	case *array.Float32:
		return func(t *inferencev1.Tensor, row int) error { return tensor.AppendFloat(t, float64(c.Value(row))) }, nil
	case *array.Float16:
		return func(t *inferencev1.Tensor, row int) error { return tensor.AppendFloat(t, half(c.Value(row))) }, nil
	case *array.Int64:
		return signed(c), nil
	case *array.Int32:
		return signed(c), nil
	case *array.Int16:
		return signed(c), nil
	case *array.Int8:
		return signed(c), nil
	case *array.Uint64:
		return unsigned(c), nil
	case *array.Uint32:
		return unsigned(c), nil
	case *array.Uint16:
		return unsigned(c), nil
	case *array.Uint8:
		return unsigned(c), nil
	case *array.Boolean:
		return func(t *inferencev1.Tensor, row int) error { tensor.AppendBool(t, c.Value(row)); return nil }, nil
	case array.StringLike:
		return func(t *inferencev1.Tensor, row int) error { return tensor.Append(t, c.Value(row)) }, nil
	case *array.Dictionary:
		values := c.Dictionary()
		read, err := cells(values)
		if err != nil {
			return nil, err
		}
		return func(t *inferencev1.Tensor, row int) error {
			at := c.GetValueIndex(row)
			if at < 0 || at >= values.Len() || values.IsNull(at) {
				return errNull
			}
			return read(t, at)
		}, nil
	case array.ExtensionArray:
		return cells(c.Storage())
	}
	return nil, fmt.Errorf("columns of type %s are not read", column.DataType())
}

func half(v float16.Num) float64 { return float64(v.Float32()) }

func signed[T int8 | int16 | int32 | int64](c interface{ Value(int) T }) cell {
	return func(t *inferencev1.Tensor, row int) error { return tensor.AppendInt(t, int64(c.Value(row))) }
}

func unsigned[T uint8 | uint16 | uint32 | uint64](c interface{ Value(int) T }) cell {
	return func(t *inferencev1.Tensor, row int) error { return tensor.AppendUint(t, uint64(c.Value(row))) }
}

var errNull = errors.New("null")

// value appends a value that is no list, unless it is null.
func value(read cell, column arrow.Array, row int, t *inferencev1.Tensor) error {
	err := errNull
	if !column.IsNull(row) {
		err = read(t, row)
	}
	if !errors.Is(err, errNull) {
		return err
	}
	text := "null, but " + tensor.Expected(t.GetDataType()) + " is expected"
	if tensor.IsFloat(t.GetDataType()) {
		text += "; a missing number is NaN"
	}
	return errors.New(text)
}

// lists reads a column of lists, however deep, whose values suit the tensor. What
// it returns appends those of a row and returns their shape.
func lists(column arrow.Array) (func(t *inferencev1.Tensor, row int) ([]int64, error), error) {
	if extended, ok := column.(array.ExtensionArray); ok {
		column = extended.Storage()
	}
	list, ok := column.(array.ListLike)
	if !ok {
		read, err := cells(column)
		return func(t *inferencev1.Tensor, row int) ([]int64, error) {
			return nil, value(read, column, row, t)
		}, err
	}
	inner, err := lists(list.ListValues())
	if err != nil {
		return nil, err
	}
	return func(t *inferencev1.Tensor, row int) ([]int64, error) {
		if list.IsNull(row) {
			return nil, errors.New("null, but a list is expected")
		}
		from, to := list.ValueOffsets(row)
		shape := []int64{to - from}
		for i := from; i < to; i++ {
			rest, err := inner(t, int(i))
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i-from, err)
			}
			if i == from {
				shape = append(shape, rest...)
			} else if !slices.Equal(rest, shape[1:]) {
				return nil, fmt.Errorf("[%d]: a list of another length than those before it", i-from)
			}
		}
		return shape, nil
	}, nil
}
