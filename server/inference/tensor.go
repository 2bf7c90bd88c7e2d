package inference

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/model"
)

// dtypes maps the API's types to the domain's.
var dtypes = [...]model.DType{
	inferencev1.DataType_DATA_TYPE_BOOL:     model.Bool,
	inferencev1.DataType_DATA_TYPE_INT8:     model.Int8,
	inferencev1.DataType_DATA_TYPE_INT16:    model.Int16,
	inferencev1.DataType_DATA_TYPE_INT32:    model.Int32,
	inferencev1.DataType_DATA_TYPE_INT64:    model.Int64,
	inferencev1.DataType_DATA_TYPE_UINT8:    model.Uint8,
	inferencev1.DataType_DATA_TYPE_UINT16:   model.Uint16,
	inferencev1.DataType_DATA_TYPE_UINT32:   model.Uint32,
	inferencev1.DataType_DATA_TYPE_UINT64:   model.Uint64,
	inferencev1.DataType_DATA_TYPE_FLOAT16:  model.Float16,
	inferencev1.DataType_DATA_TYPE_FLOAT32:  model.Float32,
	inferencev1.DataType_DATA_TYPE_FLOAT64:  model.Float64,
	inferencev1.DataType_DATA_TYPE_BFLOAT16: model.BFloat16,
	inferencev1.DataType_DATA_TYPE_STRING:   model.String,
}

func dtypeToProto(d model.DType) inferencev1.DataType {
	for p, dt := range dtypes {
		if dt == d {
			return inferencev1.DataType(p)
		}
	}
	return inferencev1.DataType_DATA_TYPE_UNSPECIFIED
}

// elements are the fields of which a tensor fills one.
var elements = [...]struct {
	name string
	len  func(*inferencev1.Tensor) int
}{
	{"raw", func(t *inferencev1.Tensor) int { return len(t.GetRaw()) }},
	{"bool_values", func(t *inferencev1.Tensor) int { return len(t.GetBoolValues()) }},
	{"int64_values", func(t *inferencev1.Tensor) int { return len(t.GetInt64Values()) }},
	{"uint64_values", func(t *inferencev1.Tensor) int { return len(t.GetUint64Values()) }},
	{"float_values", func(t *inferencev1.Tensor) int { return len(t.GetFloatValues()) }},
	{"double_values", func(t *inferencev1.Tensor) int { return len(t.GetDoubleValues()) }},
	{"string_values", func(t *inferencev1.Tensor) int { return len(t.GetStringValues()) }},
}

// typedField is the field that holds a type's elements beside raw.
func typedField(d model.DType) string {
	switch d {
	case model.Bool:
		return "bool_values"
	case model.Int8, model.Int16, model.Int32, model.Int64:
		return "int64_values"
	case model.Uint8, model.Uint16, model.Uint32, model.Uint64:
		return "uint64_values"
	case model.Float16, model.BFloat16, model.Float32:
		return "float_values"
	case model.Float64:
		return "double_values"
	case model.String:
		return "string_values"
	}
	return ""
}

// fieldError says which field of a tensor is wrong and why.
type fieldError struct{ field, description string }

func (e *fieldError) Error() string { return e.field + ": " + e.description }

// decodeTensor turns a tensor of the API into one of the domain. Raw elements
// and strings are shared with t, the rest is converted. The error is a
// *fieldError.
func decodeTensor(t *inferencev1.Tensor) (*model.Tensor, error) {
	out := new(model.Tensor)
	return out, decodeInto(out, t)
}

// decodeInto is decodeTensor into an empty tensor.
func decodeInto(out *model.Tensor, t *inferencev1.Tensor) error {
	if t == nil {
		return &fieldError{"", "a tensor is required"}
	}
	p := t.GetDataType()
	if p <= 0 || int(p) >= len(dtypes) {
		return &fieldError{"data_type", "must be one of the defined types"}
	}
	out.DType, out.Shape = dtypes[p], t.GetShape()
	n := model.Elements(out.Shape)
	if n < 0 {
		return &fieldError{"shape", "must not be negative or too large"}
	}
	typed := typedField(out.DType)
	filled := ""
	for _, e := range elements {
		l := e.len(t)
		if l == 0 {
			continue
		}
		if filled != "" {
			return &fieldError{e.name, "elements are also given in " + filled + "; give them once"}
		}
		filled = e.name
		if e.name == "raw" && out.DType != model.String {
			continue
		}
		if e.name != typed {
			return &fieldError{e.name, fmt.Sprintf("the elements of a %s tensor belong into %s", out.DType, typed)}
		}
		if int64(l) != n {
			return &fieldError{e.name, fmt.Sprintf("the shape needs %d elements, got %d", n, l)}
		}
	}
	if out.DType == model.String {
		out.Strings = t.GetStringValues()
	} else if filled == "raw" {
		out.Data = t.GetRaw()
	} else if err := decodeTyped(t, out, filled); err != nil {
		return err
	}
	if err := out.Validate(); err != nil {
		if filled == "" {
			filled = typed
		}
		return &fieldError{filled, err.Error()}
	}
	return nil
}

// decodeTyped converts the elements of the typed fields to bytes.
func decodeTyped(t *inferencev1.Tensor, out *model.Tensor, filled string) error {
	size := out.DType.Size()
	switch filled {
	case "bool_values":
		out.Data = make([]byte, len(t.GetBoolValues()))
		for i, v := range t.GetBoolValues() {
			if v {
				out.Data[i] = 1
			}
		}
	case "int64_values":
		out.Data = make([]byte, len(t.GetInt64Values())*size)
		low, high := int64(math.MinInt64)>>(64-8*size), int64(math.MaxInt64)>>(64-8*size)
		for i, v := range t.GetInt64Values() {
			if v < low || v > high {
				return outOfRange(filled, i, out.DType)
			}
			putInt(out.Data[i*size:], size, uint64(v)) //nolint:gosec // two's complement is meant
		}
	case "uint64_values":
		out.Data = make([]byte, len(t.GetUint64Values())*size)
		high := uint64(math.MaxUint64) >> (64 - 8*size)
		for i, v := range t.GetUint64Values() {
			if v > high {
				return outOfRange(filled, i, out.DType)
			}
			putInt(out.Data[i*size:], size, v)
		}
	case "float_values":
		out.Data = make([]byte, len(t.GetFloatValues())*size)
		for i, v := range t.GetFloatValues() {
			switch out.DType {
			case model.Float16:
				putInt(out.Data[i*size:], size, uint64(model.Float16Bits(v)))
			case model.BFloat16:
				putInt(out.Data[i*size:], size, uint64(model.BFloat16Bits(v)))
			default:
				putInt(out.Data[i*size:], size, uint64(math.Float32bits(v)))
			}
		}
	case "double_values":
		out.Data = make([]byte, len(t.GetDoubleValues())*size)
		for i, v := range t.GetDoubleValues() {
			putInt(out.Data[i*size:], size, math.Float64bits(v))
		}
	}
	return nil
}

func outOfRange(field string, i int, d model.DType) error {
	return &fieldError{fmt.Sprintf("%s[%d]", field, i), "does not fit " + d.String()}
}

// putInt writes the low size bytes of v, little-endian.
func putInt(b []byte, size int, v uint64) {
	switch size {
	case 1:
		b[0] = byte(v) //nolint:gosec // the low byte is meant
	case 2:
		binary.LittleEndian.PutUint16(b, uint16(v)) //nolint:gosec // the low bytes are meant
	case 4:
		binary.LittleEndian.PutUint32(b, uint32(v)) //nolint:gosec // the low bytes are meant
	case 8:
		binary.LittleEndian.PutUint64(b, v)
	}
}

func getInt(b []byte, size int) uint64 {
	switch size {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	case 4:
		return uint64(binary.LittleEndian.Uint32(b))
	default:
		return binary.LittleEndian.Uint64(b)
	}
}

// encodeTensor turns a tensor of the domain into one of the API, in raw form
// or in the typed field. It shares t's slices.
func encodeTensor(t *model.Tensor, raw bool) (*inferencev1.Tensor, error) {
	out := &inferencev1.Tensor{DataType: dtypeToProto(t.DType), Shape: t.Shape}
	if t.DType == model.String {
		for i, s := range t.Strings {
			if !utf8.ValidString(s) {
				return nil, fmt.Errorf("element %d is not valid UTF-8", i)
			}
		}
		out.StringValues = t.Strings
		return out, nil
	}
	if raw {
		out.Raw = t.Data
		return out, nil
	}
	size := t.DType.Size()
	n := len(t.Data) / size
	at := func(i int) uint64 { return getInt(t.Data[i*size:], size) }
	switch typedField(t.DType) {
	case "bool_values":
		out.BoolValues = make([]bool, n)
		for i := range n {
			out.BoolValues[i] = t.Data[i] != 0
		}
	case "int64_values":
		out.Int64Values = make([]int64, n)
		shift := 64 - 8*size
		for i := range n {
			out.Int64Values[i] = int64(at(i)<<shift) >> shift //nolint:gosec // sign extension is meant
		}
	case "uint64_values":
		out.Uint64Values = make([]uint64, n)
		for i := range n {
			out.Uint64Values[i] = at(i)
		}
	case "float_values":
		out.FloatValues = make([]float32, n)
		for i := range n {
			switch t.DType {
			case model.Float16:
				out.FloatValues[i] = model.FromFloat16Bits(uint16(at(i))) //nolint:gosec // two bytes wide
			case model.BFloat16:
				out.FloatValues[i] = model.FromBFloat16Bits(uint16(at(i))) //nolint:gosec // two bytes wide
			default:
				out.FloatValues[i] = math.Float32frombits(uint32(at(i))) //nolint:gosec // four bytes wide
			}
		}
	case "double_values":
		out.DoubleValues = make([]float64, n)
		for i := range n {
			out.DoubleValues[i] = math.Float64frombits(at(i))
		}
	}
	return out, nil
}
