package table

import (
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Schema is what a table of outputs looks like: the row's number, the columns that
// were kept, and the outputs.
type Schema struct {
	// Number is the column of the row's number; without one if it is empty.
	Number string
	Kept   []arrow.Field
	// Outputs are those that have a row for each of the inputs.
	Outputs []*inferencev1.TensorSpec
	// Prefix is put before the names of outputs.
	Prefix string
}

// NewSchema checks that no two columns have one name.
func NewSchema(number string, kept []arrow.Field, outputs []*inferencev1.TensorSpec, prefix string) (*Schema, error) {
	s := &Schema{Number: number, Kept: kept, Outputs: outputs, Prefix: prefix}
	var names []string
	if number != "" {
		names = append(names, number)
	}
	for _, f := range kept {
		if slices.Contains(names, f.Name) {
			return nil, fmt.Errorf("two columns of the output would be called %q; --row-column gives the row's number another name", f.Name)
		}
		names = append(names, f.Name)
	}
	for _, o := range outputs {
		name := prefix + o.GetName()
		if slices.Contains(names, name) {
			return nil, fmt.Errorf("the model's output %q would be called like a column that is kept; --prefix gives outputs other names", name)
		}
		names = append(names, name)
	}
	return s, nil
}

// arrow is the schema of Arrow records. An output of shape [N] or [N, 1] is a
// column of values, any other one of lists.
func (s *Schema) arrow() *arrow.Schema {
	var fields []arrow.Field
	if s.Number != "" {
		fields = append(fields, arrow.Field{Name: s.Number, Type: arrow.PrimitiveTypes.Int64})
	}
	fields = append(fields, s.Kept...)
	for _, o := range s.Outputs {
		t := valueType(o.GetDataType())
		for range depth(o.GetShape()) {
			t = arrow.ListOfNonNullable(t)
		}
		fields = append(fields, arrow.Field{Name: s.Prefix + o.GetName(), Type: t})
	}
	return arrow.NewSchema(fields, nil)
}

// depth is how many dimensions one row of an output has.
func depth(shape []int64) int {
	if len(shape) == 2 && shape[1] == 1 {
		return 0
	}
	return len(shape) - 1
}

// valueType is the Arrow type of an output's elements. What few readers know, 16
// bits of floating point, becomes 32 bits.
func valueType(d inferencev1.DataType) arrow.DataType {
	switch d {
	case inferencev1.DataType_DATA_TYPE_BOOL:
		return arrow.FixedWidthTypes.Boolean
	case inferencev1.DataType_DATA_TYPE_INT8:
		return arrow.PrimitiveTypes.Int8
	case inferencev1.DataType_DATA_TYPE_INT16:
		return arrow.PrimitiveTypes.Int16
	case inferencev1.DataType_DATA_TYPE_INT32:
		return arrow.PrimitiveTypes.Int32
	case inferencev1.DataType_DATA_TYPE_INT64:
		return arrow.PrimitiveTypes.Int64
	case inferencev1.DataType_DATA_TYPE_UINT8:
		return arrow.PrimitiveTypes.Uint8
	case inferencev1.DataType_DATA_TYPE_UINT16:
		return arrow.PrimitiveTypes.Uint16
	case inferencev1.DataType_DATA_TYPE_UINT32:
		return arrow.PrimitiveTypes.Uint32
	case inferencev1.DataType_DATA_TYPE_UINT64:
		return arrow.PrimitiveTypes.Uint64
	case inferencev1.DataType_DATA_TYPE_FLOAT64:
		return arrow.PrimitiveTypes.Float64
	case inferencev1.DataType_DATA_TYPE_STRING:
		return arrow.BinaryTypes.String
	case inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_BFLOAT16,
		inferencev1.DataType_DATA_TYPE_FLOAT32, inferencev1.DataType_DATA_TYPE_UNSPECIFIED:
	}
	return arrow.PrimitiveTypes.Float32
}

// Answer is the outputs of rows.
type Answer struct {
	Numbers []int64
	Kept    []arrow.Array
	Outputs map[string]*inferencev1.Tensor
}

// Pick is an answer without outputs to some rows of a chunk, given by their places
// in ascending order.
func (c *Chunk) Pick(rows []int) (*Answer, error) {
	a := &Answer{}
	for _, row := range rows {
		a.Numbers = append(a.Numbers, c.Numbers[row])
	}
	for _, column := range c.Kept {
		picked, err := pick(column, rows)
		if err != nil {
			return nil, err
		}
		a.Kept = append(a.Kept, picked)
	}
	return a, nil
}

// check tells whether the outputs are those of the schema, a row for each row.
func (s *Schema) check(a *Answer) error {
	for _, o := range s.Outputs {
		t := a.Outputs[o.GetName()]
		if t == nil {
			return fmt.Errorf("the server's answer is not usable: output %q is missing", o.GetName())
		}
		err := tensor.Check(t)
		if err == nil && (t.GetDataType() != o.GetDataType() || len(t.GetShape()) != len(o.GetShape()) || t.GetShape()[0] != int64(len(a.Numbers))) {
			err = fmt.Errorf("it is %s of shape %v for %d rows", tensor.TypeName(t.GetDataType()), t.GetShape(), len(a.Numbers))
		}
		if err != nil {
			return fmt.Errorf("the server's answer is not usable: output %q: %w", o.GetName(), err)
		}
	}
	return nil
}
