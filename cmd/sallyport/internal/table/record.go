package table

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// record is an answer that was checked as an Arrow record.
func (s *Schema) record(a *Answer) (arrow.RecordBatch, error) {
	schema := s.arrow()
	var columns []arrow.Array
	if s.Number != "" {
		b := array.NewInt64Builder(memory.DefaultAllocator)
		b.AppendValues(a.Numbers, nil)
		columns = append(columns, b.NewArray())
	}
	columns = append(columns, a.Kept...)
	for _, o := range s.Outputs {
		t := a.Outputs[o.GetName()]
		values, err := valuesOf(t)
		if err != nil {
			return nil, err
		}
		shape := t.GetShape()
		for level := depth(o.GetShape()); level > 0; level-- {
			lists := int64(1)
			for _, d := range shape[:level] {
				lists *= d
			}
			values = listOf(values, int(lists), int(shape[level]))
		}
		columns = append(columns, values)
	}
	for i, c := range columns {
		if !arrow.TypeEqual(c.DataType(), schema.Field(i).Type) {
			return nil, fmt.Errorf("column %q is %s, not %s", schema.Field(i).Name, c.DataType(), schema.Field(i).Type)
		}
	}
	return array.NewRecordBatch(schema, columns, int64(len(a.Numbers))), nil
}

// valuesOf are the elements of a tensor. Raw ones of a type that Arrow has too are
// shared: both are little-endian.
func valuesOf(t *inferencev1.Tensor) (arrow.Array, error) {
	n := tensor.Count(t)
	to := valueType(t.GetDataType())
	switch to.ID() { //nolint:exhaustive // the rest is as raw as the tensor
	case arrow.STRING:
		b := array.NewStringBuilder(memory.DefaultAllocator)
		b.AppendValues(t.GetStringValues(), nil)
		return b.NewArray(), nil
	case arrow.BOOL:
		b := array.NewBooleanBuilder(memory.DefaultAllocator)
		for i := range n {
			b.Append(tensor.Text(t, i) == "true")
		}
		return b.NewArray(), nil
	}
	raw := t.GetRaw()
	if len(raw) == 0 || tensor.Width(t.GetDataType())*8 != to.(arrow.FixedWidthDataType).BitWidth() {
		wide := &inferencev1.Tensor{DataType: elementOf(to)}
		for i := range n {
			if err := tensor.Append(wide, tensor.Text(t, i)); err != nil {
				return nil, err
			}
		}
		raw = wide.GetRaw()
	}
	data := array.NewData(to, n, []*memory.Buffer{nil, memory.NewBufferBytes(raw)}, nil, 0, 0)
	return array.MakeFromData(data), nil
}

// elementOf is the tensor's type whose raw form is the Arrow type's.
func elementOf(t arrow.DataType) inferencev1.DataType {
	for _, d := range inferencev1.DataType_value {
		if d := inferencev1.DataType(d); tensor.Width(d)*8 == t.(arrow.FixedWidthDataType).BitWidth() && arrow.TypeEqual(valueType(d), t) {
			return d
		}
	}
	return inferencev1.DataType_DATA_TYPE_UNSPECIFIED
}

// listOf puts values into lists of one length.
func listOf(values arrow.Array, lists, length int) arrow.Array {
	offsets := make([]int32, lists+1)
	for i := range offsets {
		offsets[i] = int32(i * length) //nolint:gosec // a message has fewer elements
	}
	data := array.NewData(arrow.ListOfNonNullable(values.DataType()), lists,
		[]*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(offsets))}, []arrow.ArrayData{values.Data()}, 0, 0)
	return array.NewListData(data)
}
