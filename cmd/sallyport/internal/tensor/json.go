package tensor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// maxRank is the most dimensions of a tensor, as in the API.
const maxRank = 16

// ReadArray appends the elements of a nested array, or of a single value, to t
// and returns the shape of the array. Errors say where, beginning with path.
func ReadArray(path string, data []byte, t *inferencev1.Tensor) ([]int64, error) {
	// Rows hold a great many single values; a decoder for each would cost more
	// than all the rest.
	if data[0] != '[' && data[0] != '{' {
		tok, err := scalar(data)
		if err == nil {
			err = appendScalar(t, tok)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return nil, nil
	}
	r := arrayReader{dec: json.NewDecoder(bytes.NewReader(data)), tensor: t, leaf: -1}
	r.dec.UseNumber()
	if err := r.read(); err != nil {
		var b strings.Builder
		for _, i := range r.at {
			fmt.Fprintf(&b, "[%d]", i)
		}
		return nil, fmt.Errorf("%s: %w", path+b.String(), err)
	}
	return r.shape, nil
}

type arrayReader struct {
	dec    *json.Decoder
	tensor *inferencev1.Tensor
	// shape has the length of each dimension met, -1 where none has ended yet.
	shape []int64
	// at is the index in each dimension of what is being read.
	at []int
	// leaf is how many dimensions elements lie under; -1 before the first.
	leaf int
}

func (r *arrayReader) read() error {
	tok, err := r.dec.Token()
	if err != nil {
		return err
	}
	depth := len(r.at)
	switch tok {
	case json.Delim('{'):
		return errors.New("expected an array, got an object")
	case json.Delim('['):
	default:
		if r.leaf < 0 {
			r.leaf = depth
		}
		if depth != r.leaf || depth < len(r.shape) {
			return errors.New("expected an array, as beside it")
		}
		return appendScalar(r.tensor, tok)
	}
	switch {
	case r.leaf >= 0 && depth >= r.leaf:
		return errors.New("expected " + Expected(r.tensor.GetDataType()) + ", got an array")
	case depth == maxRank:
		return fmt.Errorf("more than %d dimensions", maxRank)
	case depth == len(r.shape):
		r.shape = append(r.shape, -1)
	}
	n := 0
	for ; r.dec.More(); n++ {
		r.at = append(r.at, n)
		if err := r.read(); err != nil {
			return err
		}
		r.at = r.at[:depth]
	}
	if _, err := r.dec.Token(); err != nil {
		return err
	}
	if r.shape[depth] < 0 {
		r.shape[depth] = int64(n)
	}
	if r.shape[depth] != int64(n) {
		return fmt.Errorf("has %d elements, those before it %d", n, r.shape[depth])
	}
	return nil
}

// scalar is the token of a valid JSON value that is no array or object.
func scalar(data []byte) (json.Token, error) {
	switch data[0] {
	case '"':
		var s string
		err := json.Unmarshal(data, &s)
		return s, err
	case 't', 'f':
		return data[0] == 't', nil
	case 'n':
		return nil, nil
	}
	return json.Number(data), nil
}

// appendScalar appends a JSON value that is no array or object to t.
func appendScalar(t *inferencev1.Tensor, tok json.Token) error {
	d := t.GetDataType()
	got := ""
	switch v := tok.(type) {
	case string:
		switch {
		case d == inferencev1.DataType_DATA_TYPE_STRING:
			return Append(t, v)
		case IsFloat(d) && (v == "NaN" || v == "Infinity" || v == "-Infinity"):
			return Append(t, v)
		}
		got = fmt.Sprintf("the string %q", Abbreviate(v))
	case json.Number:
		if d != inferencev1.DataType_DATA_TYPE_STRING && d != inferencev1.DataType_DATA_TYPE_BOOL {
			return Append(t, v.String())
		}
		got = Abbreviate(v.String())
	case bool:
		if d == inferencev1.DataType_DATA_TYPE_BOOL {
			AppendBool(t, v)
			return nil
		}
		got = fmt.Sprint(v)
	case nil:
		got = "null"
		if IsFloat(d) {
			got += `; a missing number is written "NaN"`
		}
	}
	return fmt.Errorf("expected %s, got %s", Expected(d), got)
}

func IsFloat(d inferencev1.DataType) bool {
	switch d { //nolint:exhaustive // the rest is not
	case inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_BFLOAT16,
		inferencev1.DataType_DATA_TYPE_FLOAT32, inferencev1.DataType_DATA_TYPE_FLOAT64:
		return true
	}
	return false
}
