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
	bits := float16bits
	if dtype == model.BFloat16 {
		bits = bfloat16bits
	}
	n := len(t.Data) / 4
	for i := range n {
		f := binary.LittleEndian.Uint32(t.Data[4*i:])
		binary.LittleEndian.PutUint16(t.Data[2*i:], bits(f))
	}
	t.DType, t.Data = dtype, t.Data[:2*n:2*n]
}

func bfloat16bits(f uint32) uint16 {
	if f&0x7fffffff > 0x7f800000 {
		return uint16(f>>16) | 0x40 // still a NaN if the bits that said so are cut off
	}
	return uint16((f + 0x7fff + f>>16&1) >> 16)
}

func float16bits(f uint32) uint16 {
	const (
		infinity = 0x7f800000
		overflow = 0x477ff000 // the least that rounds to 2^16, above the largest finite value
		normal   = 0x38800000 // 2^-14
	)
	sign, magnitude := uint16(f>>16)&0x8000, f&0x7fffffff
	switch {
	case magnitude > infinity:
		return sign | 0x7e00
	case magnitude >= overflow:
		return sign | 0x7c00
	case magnitude >= normal:
		// The exponent's bias is 127 there and 15 here. A carry out of the
		// fraction goes into the exponent, as it should.
		return sign | uint16((magnitude-112<<23+0xfff+magnitude>>13&1)>>13)
	}
	// Below 2^-14 the steps are 2^-24 wide, as those of a float32 at 0.5 are of
	// width 2^-24: the sum rounds as asked.
	sum := math.Float32frombits(magnitude) + 0.5
	return sign | uint16(math.Float32bits(sum)-math.Float32bits(0.5)) //nolint:gosec // at most 0x400
}
