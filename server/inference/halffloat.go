package inference

import (
	"math"

	halffloat "github.com/x448/float16"
)

// float16 rounds a binary32 to binary16, to nearest, ties to even.
func float16(b uint32) uint16 { return halffloat.Fromfloat32(math.Float32frombits(b)).Bits() }

// fromFloat16 widens a binary16; exact.
func fromFloat16(b uint16) float32 { return halffloat.Frombits(b).Float32() }

// bfloat16 rounds a binary32 to its upper half, to nearest, ties to even.
func bfloat16(b uint32) uint16 {
	const exponent = 0x7f800000
	if b&exponent == exponent && b&^(1<<31) != exponent {
		// Rounding could carry a NaN's payload into an infinity; keep it quiet.
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
