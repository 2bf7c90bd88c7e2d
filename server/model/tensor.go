// Package model is the domain of the server: tensors, signatures, contracts
// and the repository of loaded models. It knows neither gRPC nor any runtime.
package model

import (
	"fmt"
	"math"
)

// DType is the type of a tensor's elements.
type DType uint8

// The element types that can go in and out of a model.
const (
	Bool DType = iota + 1
	Int8
	Int16
	Int32
	Int64
	Uint8
	Uint16
	Uint32
	Uint64
	Float16
	Float32
	Float64
	BFloat16
	String
)

var dtypes = [...]struct {
	name string
	size int
}{
	Bool: {"BOOL", 1}, Int8: {"INT8", 1}, Int16: {"INT16", 2}, Int32: {"INT32", 4}, Int64: {"INT64", 8},
	Uint8: {"UINT8", 1}, Uint16: {"UINT16", 2}, Uint32: {"UINT32", 4}, Uint64: {"UINT64", 8},
	Float16: {"FLOAT16", 2}, Float32: {"FLOAT32", 4}, Float64: {"FLOAT64", 8}, BFloat16: {"BFLOAT16", 2},
	String: {"STRING", 0},
}

// Valid tells whether d is one of the types above.
func (d DType) Valid() bool { return d >= Bool && d <= String }

// Size is the number of bytes of one element; 0 for String.
func (d DType) Size() int {
	if !d.Valid() {
		return 0
	}
	return dtypes[d].size
}

// String is the type's name, as in the API: "FLOAT32".
func (d DType) String() string {
	if !d.Valid() {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Tensor is an n-dimensional array, row-major. Whoever holds it owns its
// slices unless a function says otherwise.
type Tensor struct {
	// DType is the type of every element.
	DType DType
	// Shape is the length of each dimension; empty for a scalar.
	Shape []int64
	// Data holds the elements, little-endian without padding, for every type
	// but String. It need not be aligned.
	Data []byte
	// Strings holds the elements of a String tensor.
	Strings []string
}

// Elements is the product of the shape: 1 for a scalar, -1 if a dimension is
// negative or the product does not fit an int.
func Elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		if d < 0 {
			return -1
		}
		if d != 0 && n > math.MaxInt64/d {
			return -1
		}
		n *= d
	}
	if n > math.MaxInt {
		return -1
	}
	return n
}

// Rows is the length of the first dimension; 1 for a scalar.
func (t *Tensor) Rows() int64 {
	if len(t.Shape) == 0 {
		return 1
	}
	return t.Shape[0]
}

// Validate tells whether type, shape and data agree.
func (t *Tensor) Validate() error {
	if !t.DType.Valid() {
		return fmt.Errorf("unknown data type %d", uint8(t.DType))
	}
	n := Elements(t.Shape)
	if n < 0 {
		return fmt.Errorf("shape %v is negative or too large", t.Shape)
	}
	if t.DType == String {
		if len(t.Data) != 0 {
			return fmt.Errorf("a STRING tensor has bytes")
		}
		if int64(len(t.Strings)) != n {
			return fmt.Errorf("shape %v needs %d elements, got %d", t.Shape, n, len(t.Strings))
		}
		return nil
	}
	if len(t.Strings) != 0 {
		return fmt.Errorf("a %s tensor has strings", t.DType)
	}
	size := int64(t.DType.Size())
	if n > math.MaxInt64/size || int64(len(t.Data)) != n*size {
		return fmt.Errorf("shape %v of %s needs %d elements of %d bytes, got %d bytes", t.Shape, t.DType, n, size, len(t.Data))
	}
	return nil
}
