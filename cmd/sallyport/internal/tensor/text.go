package tensor

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/x448/float16"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/model"
)

// Check tells whether the tensor holds as many elements as its shape says,
// of a type that Text reads. The functions below rely on it.
func Check(t *inferencev1.Tensor) error {
	n := Count(t)
	if want := model.Elements(t.GetShape()); int64(n) != want {
		return fmt.Errorf("a tensor of shape %v and type %s has %d elements", t.GetShape(), TypeName(t.GetDataType()), n)
	}
	if n == 0 && emptyLists(t.GetShape()) > maxEmpty {
		return fmt.Errorf("a tensor of shape %v has no elements, but more than %d lists", t.GetShape(), maxEmpty)
	}
	return nil
}

// maxEmpty bounds the lists of a tensor without elements: a few bytes must not be
// written out as 2^40 of them.
const maxEmpty = 1 << 20

// emptyLists is how many lists a shape with a dimension of 0 has, or a number beyond
// maxEmpty.
func emptyLists(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		if d == 0 || n > maxEmpty {
			break
		}
		n *= min(d, maxEmpty+1)
	}
	return n
}

func Count(t *inferencev1.Tensor) int {
	if raw := len(t.GetRaw()); raw > 0 {
		w := Width(t.GetDataType())
		if w == 0 || raw%w != 0 {
			return -1
		}
		return raw / w
	}
	switch t.GetDataType() {
	case inferencev1.DataType_DATA_TYPE_STRING:
		return len(t.GetStringValues())
	case inferencev1.DataType_DATA_TYPE_BOOL:
		return len(t.GetBoolValues())
	case inferencev1.DataType_DATA_TYPE_INT8, inferencev1.DataType_DATA_TYPE_INT16,
		inferencev1.DataType_DATA_TYPE_INT32, inferencev1.DataType_DATA_TYPE_INT64:
		return len(t.GetInt64Values())
	case inferencev1.DataType_DATA_TYPE_UINT8, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_UINT64:
		return len(t.GetUint64Values())
	case inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_BFLOAT16, inferencev1.DataType_DATA_TYPE_FLOAT32:
		return len(t.GetFloatValues())
	case inferencev1.DataType_DATA_TYPE_FLOAT64:
		return len(t.GetDoubleValues())
	case inferencev1.DataType_DATA_TYPE_UNSPECIFIED:
	}
	return -1
}

// Text is the i-th element of t: numbers as short as they can be without
// loss, booleans as true and false, strings as they are.
func Text(t *inferencev1.Tensor, i int) string {
	d := t.GetDataType()
	if len(t.GetRaw()) > 0 {
		return rawText(d, t.GetRaw()[i*Width(d):])
	}
	switch d { //nolint:exhaustive // Check knows the same types
	case inferencev1.DataType_DATA_TYPE_STRING:
		return t.GetStringValues()[i]
	case inferencev1.DataType_DATA_TYPE_BOOL:
		return strconv.FormatBool(t.GetBoolValues()[i])
	case inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_BFLOAT16, inferencev1.DataType_DATA_TYPE_FLOAT32:
		return floatText(float64(t.GetFloatValues()[i]), 32)
	case inferencev1.DataType_DATA_TYPE_FLOAT64:
		return floatText(t.GetDoubleValues()[i], 64)
	case inferencev1.DataType_DATA_TYPE_UINT8, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_UINT64:
		return strconv.FormatUint(t.GetUint64Values()[i], 10)
	}
	return strconv.FormatInt(t.GetInt64Values()[i], 10)
}

// rawText is the text of the element of type d that b begins with.
func rawText(d inferencev1.DataType, b []byte) string {
	le := binary.LittleEndian
	switch d { //nolint:exhaustive // the rest has no raw form
	case inferencev1.DataType_DATA_TYPE_BOOL:
		return strconv.FormatBool(b[0] != 0)
	case inferencev1.DataType_DATA_TYPE_INT8:
		return strconv.Itoa(int(int8(b[0]))) //nolint:gosec // the bits are meant
	case inferencev1.DataType_DATA_TYPE_INT16:
		return strconv.Itoa(int(int16(le.Uint16(b)))) //nolint:gosec // the bits are meant
	case inferencev1.DataType_DATA_TYPE_INT32:
		return strconv.Itoa(int(int32(le.Uint32(b)))) //nolint:gosec // the bits are meant
	case inferencev1.DataType_DATA_TYPE_INT64:
		return strconv.FormatInt(int64(le.Uint64(b)), 10) //nolint:gosec // the bits are meant
	case inferencev1.DataType_DATA_TYPE_UINT8:
		return strconv.Itoa(int(b[0]))
	case inferencev1.DataType_DATA_TYPE_UINT16:
		return strconv.Itoa(int(le.Uint16(b)))
	case inferencev1.DataType_DATA_TYPE_UINT32:
		return strconv.FormatUint(uint64(le.Uint32(b)), 10)
	case inferencev1.DataType_DATA_TYPE_UINT64:
		return strconv.FormatUint(le.Uint64(b), 10)
	case inferencev1.DataType_DATA_TYPE_FLOAT16:
		return floatText(float64(float16.Frombits(le.Uint16(b)).Float32()), 32)
	case inferencev1.DataType_DATA_TYPE_BFLOAT16:
		return floatText(float64(math.Float32frombits(uint32(le.Uint16(b))<<16)), 32)
	case inferencev1.DataType_DATA_TYPE_FLOAT32:
		return floatText(float64(math.Float32frombits(le.Uint32(b))), 32)
	}
	return floatText(math.Float64frombits(le.Uint64(b)), 64)
}

// floatText is a number as JSON writes it, and protojson what JSON cannot.
func floatText(v float64, bits int) string {
	switch {
	case math.IsInf(v, 1):
		return "Infinity"
	case math.IsInf(v, -1):
		return "-Infinity"
	}
	return strconv.FormatFloat(v, 'g', -1, bits)
}

// AppendElement appends the i-th element of t to b as JSON.
func AppendElement(b []byte, t *inferencev1.Tensor, i int) []byte {
	text := Text(t, i)
	switch {
	case t.GetDataType() == inferencev1.DataType_DATA_TYPE_STRING:
		quoted, _ := json.Marshal(text) // a string always can be
		return append(b, quoted...)
	case slices.Contains([]string{"NaN", "Infinity", "-Infinity"}, text):
		return strconv.AppendQuote(b, text)
	}
	return append(b, text...)
}

// AppendJSON appends t as nested arrays.
func AppendJSON(b []byte, t *inferencev1.Tensor) []byte {
	next := 0
	var nest func(shape []int64)
	nest = func(shape []int64) {
		if len(shape) == 0 {
			b = AppendElement(b, t, next)
			next++
			return
		}
		b = append(b, '[')
		for i := range shape[0] {
			if i > 0 {
				b = append(b, ',')
			}
			nest(shape[1:])
		}
		b = append(b, ']')
	}
	nest(t.GetShape())
	return b
}
