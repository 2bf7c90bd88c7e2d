package tensor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/x448/float16"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/model"
)

// TypeName is the short name of a data type: "FLOAT32".
func TypeName(d inferencev1.DataType) string {
	return strings.TrimPrefix(d.String(), "DATA_TYPE_")
}

// Width is the size of one element in bytes; 0 for a type without a fixed one.
func Width(d inferencev1.DataType) int {
	switch d {
	case inferencev1.DataType_DATA_TYPE_BOOL, inferencev1.DataType_DATA_TYPE_INT8, inferencev1.DataType_DATA_TYPE_UINT8:
		return 1
	case inferencev1.DataType_DATA_TYPE_INT16, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_BFLOAT16:
		return 2
	case inferencev1.DataType_DATA_TYPE_INT32, inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_FLOAT32:
		return 4
	case inferencev1.DataType_DATA_TYPE_INT64, inferencev1.DataType_DATA_TYPE_UINT64, inferencev1.DataType_DATA_TYPE_FLOAT64:
		return 8
	case inferencev1.DataType_DATA_TYPE_UNSPECIFIED, inferencev1.DataType_DATA_TYPE_STRING:
	}
	return 0
}

// Append appends the element that text says to t, whose type decides how
// text is read. Elements are kept in raw form, but for strings: the fastest to
// send and to run.
func Append(t *inferencev1.Tensor, text string) error {
	d := t.GetDataType()
	if d == inferencev1.DataType_DATA_TYPE_STRING {
		if !utf8.ValidString(text) {
			return errors.New("not valid UTF-8")
		}
		t.StringValues = append(t.StringValues, text)
		return nil
	}
	text = strings.TrimSpace(text)
	var err error
	switch d {
	case inferencev1.DataType_DATA_TYPE_BOOL:
		var v bool
		v, err = strconv.ParseBool(text)
		if err == nil {
			AppendBool(t, v)
		}
	case inferencev1.DataType_DATA_TYPE_INT8, inferencev1.DataType_DATA_TYPE_INT16,
		inferencev1.DataType_DATA_TYPE_INT32, inferencev1.DataType_DATA_TYPE_INT64:
		var v int64
		v, err = strconv.ParseInt(text, 10, 8*Width(d))
		if err == nil {
			err = AppendInt(t, v)
		}
	case inferencev1.DataType_DATA_TYPE_UINT8, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_UINT64:
		var v uint64
		v, err = strconv.ParseUint(text, 10, 8*Width(d))
		if err == nil {
			err = AppendUint(t, v)
		}
	case inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_BFLOAT16,
		inferencev1.DataType_DATA_TYPE_FLOAT32:
		var v float64
		v, err = strconv.ParseFloat(text, 32)
		if err == nil {
			err = AppendFloat(t, v)
		}
	case inferencev1.DataType_DATA_TYPE_FLOAT64:
		var v float64
		v, err = strconv.ParseFloat(text, 64)
		if err == nil {
			err = AppendFloat(t, v)
		}
	default:
		return fmt.Errorf("the model wants %s, which this version cannot send", TypeName(d))
	}
	switch {
	case err == nil:
		return nil
	case text == "":
		return fmt.Errorf("empty, but %s is expected; a missing number is written NaN", TypeName(d))
	case errors.Is(err, strconv.ErrRange):
		return misfit(text, d)
	}
	if !errors.Is(err, strconv.ErrSyntax) {
		return err
	}
	return fmt.Errorf("expected %s, got %q", Expected(d), Abbreviate(text))
}

// AppendBool appends an element to a BOOL tensor.
func AppendBool(t *inferencev1.Tensor, v bool) {
	b := byte(0)
	if v {
		b = 1
	}
	t.Raw = append(t.Raw, b)
}

// AppendInt appends an integer to a tensor of integers or of floating-point
// numbers. The error is that it does not fit the type.
func AppendInt(t *inferencev1.Tensor, v int64) error {
	d := t.GetDataType()
	switch d { //nolint:exhaustive // the rest is no number
	case inferencev1.DataType_DATA_TYPE_INT8, inferencev1.DataType_DATA_TYPE_INT16,
		inferencev1.DataType_DATA_TYPE_INT32, inferencev1.DataType_DATA_TYPE_INT64:
		bits := 8 * Width(d)
		if v<<(64-bits)>>(64-bits) != v {
			return misfit(strconv.FormatInt(v, 10), d)
		}
		appendLow(t, uint64(v)) //nolint:gosec // two's complement is meant
		return nil
	case inferencev1.DataType_DATA_TYPE_UINT8, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_UINT64:
		if v < 0 {
			return misfit(strconv.FormatInt(v, 10), d)
		}
		return AppendUint(t, uint64(v))
	}
	return AppendFloat(t, float64(v))
}

// AppendUint is AppendInt for what may be beyond an int64.
func AppendUint(t *inferencev1.Tensor, v uint64) error {
	d := t.GetDataType()
	switch d { //nolint:exhaustive // the rest is no number
	case inferencev1.DataType_DATA_TYPE_INT8, inferencev1.DataType_DATA_TYPE_INT16,
		inferencev1.DataType_DATA_TYPE_INT32, inferencev1.DataType_DATA_TYPE_INT64:
		if v > math.MaxInt64 {
			return misfit(strconv.FormatUint(v, 10), d)
		}
		return AppendInt(t, int64(v))
	case inferencev1.DataType_DATA_TYPE_UINT8, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_UINT64:
		if bits := 8 * Width(d); bits < 64 && v>>bits != 0 {
			return misfit(strconv.FormatUint(v, 10), d)
		}
		appendLow(t, v)
		return nil
	}
	return AppendFloat(t, float64(v))
}

// AppendFloat appends a number to a tensor of floating-point numbers, rounded to
// its type. The error is that the number is finite and the type has none so large.
func AppendFloat(t *inferencev1.Tensor, v float64) error {
	d := t.GetDataType()
	var rounded float64
	switch d {
	case inferencev1.DataType_DATA_TYPE_FLOAT16:
		bits := float16.Fromfloat32(float32(v))
		rounded = float64(bits.Float32())
		t.Raw = binary.LittleEndian.AppendUint16(t.Raw, bits.Bits())
	case inferencev1.DataType_DATA_TYPE_BFLOAT16:
		bits := model.BFloat16Bits(float32(v))
		rounded = float64(model.FromBFloat16Bits(bits))
		t.Raw = binary.LittleEndian.AppendUint16(t.Raw, bits)
	case inferencev1.DataType_DATA_TYPE_FLOAT32:
		rounded = float64(float32(v))
		t.Raw = binary.LittleEndian.AppendUint32(t.Raw, math.Float32bits(float32(v)))
	default:
		rounded = v
		t.Raw = binary.LittleEndian.AppendUint64(t.Raw, math.Float64bits(v))
	}
	if math.IsInf(rounded, 0) && !math.IsInf(v, 0) {
		t.Raw = t.Raw[:len(t.Raw)-Width(d)]
		return misfit(strconv.FormatFloat(v, 'g', -1, 64), d)
	}
	return nil
}

// appendLow appends the low bytes of v, as many as the type has.
func appendLow(t *inferencev1.Tensor, v uint64) {
	for range Width(t.GetDataType()) {
		t.Raw = append(t.Raw, byte(v))
		v >>= 8
	}
}

func misfit(number string, d inferencev1.DataType) error {
	return fmt.Errorf("%s does not fit %s", Abbreviate(number), TypeName(d))
}

// Expected is what an element of the type is called in an error.
func Expected(d inferencev1.DataType) string {
	switch d { //nolint:exhaustive // the rest are floating-point numbers
	case inferencev1.DataType_DATA_TYPE_STRING:
		return "a string"
	case inferencev1.DataType_DATA_TYPE_BOOL:
		return "true or false"
	case inferencev1.DataType_DATA_TYPE_INT8, inferencev1.DataType_DATA_TYPE_INT16,
		inferencev1.DataType_DATA_TYPE_INT32, inferencev1.DataType_DATA_TYPE_INT64,
		inferencev1.DataType_DATA_TYPE_UINT8, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_UINT64:
		return "an integer (" + TypeName(d) + ")"
	}
	return "a number (" + TypeName(d) + ")"
}

func Abbreviate(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
