package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// typeName is the short name of a data type: "FLOAT32".
func typeName(d inferencev1.DataType) string {
	return strings.TrimPrefix(d.String(), "DATA_TYPE_")
}

// width is the size of one element in bytes; 0 for a type without a fixed one.
func width(d inferencev1.DataType) int {
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

// appendElement appends the element that text says to t, whose type decides how
// text is read and in which form the element is kept.
func appendElement(t *inferencev1.Tensor, text string) error {
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
		t.BoolValues = append(t.BoolValues, v)
	case inferencev1.DataType_DATA_TYPE_INT8, inferencev1.DataType_DATA_TYPE_INT16,
		inferencev1.DataType_DATA_TYPE_INT32, inferencev1.DataType_DATA_TYPE_INT64:
		var v int64
		v, err = strconv.ParseInt(text, 10, 8*width(d))
		t.Int64Values = append(t.Int64Values, v)
	case inferencev1.DataType_DATA_TYPE_UINT8, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_UINT64:
		var v uint64
		v, err = strconv.ParseUint(text, 10, 8*width(d))
		t.Uint64Values = append(t.Uint64Values, v)
	case inferencev1.DataType_DATA_TYPE_FLOAT32:
		var v float64
		v, err = strconv.ParseFloat(text, 32)
		t.Raw = binary.LittleEndian.AppendUint32(t.Raw, math.Float32bits(float32(v)))
	case inferencev1.DataType_DATA_TYPE_FLOAT64:
		var v float64
		v, err = strconv.ParseFloat(text, 64)
		t.Raw = binary.LittleEndian.AppendUint64(t.Raw, math.Float64bits(v))
	case inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_BFLOAT16:
		var v float64
		v, err = strconv.ParseFloat(text, 32)
		t.FloatValues = append(t.FloatValues, float32(v))
	default:
		return fmt.Errorf("the model wants %s, which this version cannot send", typeName(d))
	}
	switch {
	case err == nil:
		return nil
	case text == "":
		return fmt.Errorf("empty, but %s is expected; a missing number is written NaN", typeName(d))
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%s does not fit %s", abbreviate(text), typeName(d))
	}
	return fmt.Errorf("expected %s, got %q", expected(d), abbreviate(text))
}

// expected is what an element of the type is called in an error.
func expected(d inferencev1.DataType) string {
	switch d { //nolint:exhaustive // the rest are floating-point numbers
	case inferencev1.DataType_DATA_TYPE_STRING:
		return "a string"
	case inferencev1.DataType_DATA_TYPE_BOOL:
		return "true or false"
	case inferencev1.DataType_DATA_TYPE_INT8, inferencev1.DataType_DATA_TYPE_INT16,
		inferencev1.DataType_DATA_TYPE_INT32, inferencev1.DataType_DATA_TYPE_INT64,
		inferencev1.DataType_DATA_TYPE_UINT8, inferencev1.DataType_DATA_TYPE_UINT16,
		inferencev1.DataType_DATA_TYPE_UINT32, inferencev1.DataType_DATA_TYPE_UINT64:
		return "an integer (" + typeName(d) + ")"
	}
	return "a number (" + typeName(d) + ")"
}

func abbreviate(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
