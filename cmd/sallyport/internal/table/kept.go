package table

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// keptField is a column as it is written: strings that a dictionary holds are
// written as strings.
func keptField(f arrow.Field) (arrow.Field, error) {
	plain := arrow.Field{Name: f.Name, Type: f.Type, Nullable: true}
	switch t := f.Type.(type) {
	case *arrow.DictionaryType:
		if t.ValueType.ID() != arrow.STRING && t.ValueType.ID() != arrow.LARGE_STRING {
			return plain, fmt.Errorf("column %q is %s, which cannot be kept: convert the column", f.Name, f.Type)
		}
		plain.Type = arrow.BinaryTypes.String
	case arrow.ExtensionType:
		plain.Type = t.StorageType()
	case *arrow.RunEndEncodedType, *arrow.DenseUnionType, *arrow.SparseUnionType:
		return plain, fmt.Errorf("column %q is %s, which cannot be kept: convert the column", f.Name, f.Type)
	}
	return plain, nil
}

// join puts parts of a column together, as the field says.
func join(parts []arrow.Array, as arrow.Field) (arrow.Array, error) {
	for i, p := range parts {
		switch c := p.(type) {
		case *array.Dictionary:
			b := array.NewStringBuilder(memory.DefaultAllocator)
			for row := range c.Len() {
				at := -1
				if c.IsValid(row) {
					at = c.GetValueIndex(row)
				}
				if at < 0 || c.Dictionary().IsNull(at) {
					b.AppendNull()
					continue
				}
				b.Append(c.Dictionary().ValueStr(at))
			}
			parts[i] = b.NewArray()
		case array.ExtensionArray:
			parts[i] = c.Storage()
		}
		if !arrow.TypeEqual(parts[i].DataType(), as.Type) {
			return nil, fmt.Errorf("column %q is %s in one place and %s in another", as.Name, as.Type, parts[i].DataType())
		}
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return array.Concatenate(parts, memory.DefaultAllocator)
}

// pick returns rows of a column, given in ascending order.
func pick(column arrow.Array, rows []int) (arrow.Array, error) {
	var parts []arrow.Array
	for from := 0; from < len(rows); {
		to := from + 1
		for to < len(rows) && rows[to] == rows[to-1]+1 {
			to++
		}
		parts = append(parts, array.NewSlice(column, int64(rows[from]), int64(rows[to-1]+1)))
		from = to
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return array.Concatenate(parts, memory.DefaultAllocator)
}

// reorder is a record with its columns in another order.
func reorder(r arrow.RecordBatch, order []int) arrow.RecordBatch {
	var fields []arrow.Field
	var columns []arrow.Array
	for _, at := range order {
		fields = append(fields, r.Schema().Field(at))
		columns = append(columns, r.Column(at))
	}
	return array.NewRecordBatch(arrow.NewSchema(fields, nil), columns, r.NumRows())
}
