package model

import (
	"math"

	"github.com/x448/float16"
)

// Float16Bits rounds f to IEEE 754 binary16, to nearest, ties to even.
func Float16Bits(f float32) uint16 { return float16.Fromfloat32(f).Bits() }

// FromFloat16Bits widens a binary16; exact.
func FromFloat16Bits(b uint16) float32 { return float16.Frombits(b).Float32() }

// BFloat16Bits rounds f to its upper half, to nearest, ties to even.
func BFloat16Bits(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40 // still a NaN if the bits that said so are cut off
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// FromBFloat16Bits widens a bfloat16; exact.
func FromBFloat16Bits(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }
