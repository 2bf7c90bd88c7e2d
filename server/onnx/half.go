package onnx

import (
	"encoding/binary"
	"math"

	"github.com/sallyport/sallyport/server/model"
)

// narrowTo turns a FLOAT32 tensor into one of half the width, in place. Values
// that lie between two of the narrow type go to the nearer, to the even one if
// both are as near.
func narrowTo(dtype model.DType, t *model.Tensor) {
	bits := model.Float16Bits
	if dtype == model.BFloat16 {
		bits = model.BFloat16Bits
	}
	n := len(t.Data) / 4
	for i := range n {
		f := math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
		binary.LittleEndian.PutUint16(t.Data[2*i:], bits(f))
	}
	t.DType, t.Data = dtype, t.Data[:2*n:2*n]
}
