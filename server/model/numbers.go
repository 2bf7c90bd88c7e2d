package model

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// numberContract is what the elements of a numeric input must satisfy. Either
// floats or ints has one range for all columns, or one for each.
type numberContract struct {
	floats   []span[float64] // infinities are outside unless they are allowed
	float32s []span[float32] // the same, for inputs of type FLOAT32
	ints     []span[int64]   // of keys

	allowNaN      bool
	allowedFloats []float64 // sorted; nil for any
	allowedInts   []int64   // keys, sorted; nil for any
}

// span is all from low to high, both included.
type span[T float32 | float64 | int64] struct{ low, high T }

// compileNumbers calls fault for every demand that no element can satisfy.
func compileNumbers(d DType, demands *configv1.InputContract, fault func(format string, args ...any)) numberContract {
	n := numberContract{allowNaN: demands.GetAllowNan()}
	columns := demands.GetColumns()
	if !slices.ContainsFunc(columns, hasRange) {
		columns = []*configv1.Column{{}}
	}
	for _, c := range columns {
		low, high := math.Inf(-1), math.Inf(1)
		if demands.Min != nil {
			low = *demands.Min
		}
		if demands.Max != nil {
			high = *demands.Max
		}
		if c.Min != nil {
			low = max(low, *c.Min)
		}
		if c.Max != nil {
			high = min(high, *c.Max)
		}
		empty := false
		if d.float() {
			s := d.floatSpan(low, high, demands.GetAllowInfinity())
			n.floats = append(n.floats, s)
			n.float32s = append(n.float32s, span[float32]{float32(s.low), float32(s.high)})
			empty = !(s.low <= s.high) // also if one is NaN
		} else {
			s := d.intSpan(low, high)
			n.ints = append(n.ints, s)
			empty = s.low > s.high
		}
		if empty && c.GetName() != "" {
			fault(".columns[%q]: no %s is within min and max", c.GetName(), d)
		} else if empty {
			fault(": no %s is within min and max", d)
		}
	}
	for i, v := range demands.GetAllowedNumbers() {
		if d.float() && math.Abs(v) <= d.greatest() {
			n.allowedFloats = append(n.allowedFloats, d.round(v))
		} else if s := d.intSpan(v, v); !d.float() && s.low == s.high {
			n.allowedInts = append(n.allowedInts, s.low)
		} else {
			fault(".allowed_numbers[%d]: not a %s", i, d)
		}
	}
	slices.Sort(n.allowedFloats)
	slices.Sort(n.allowedInts)
	return n
}

func hasNumbers(demands *configv1.InputContract) bool {
	return demands.Min != nil || demands.Max != nil || len(demands.GetAllowedNumbers()) > 0 ||
		slices.ContainsFunc(demands.GetColumns(), hasRange)
}

func hasRange(c *configv1.Column) bool { return c.Min != nil || c.Max != nil }

func (d DType) float() bool { return d == Float16 || d == Float32 || d == Float64 || d == BFloat16 }

func (d DType) signed() bool { return d >= Int8 && d <= Int64 }

// greatest is the greatest finite value of a floating-point type.
func (d DType) greatest() float64 {
	switch d { //nolint:exhaustive // the others are no floating-point types
	case Float16:
		return 65504
	case BFloat16:
		return 0x1.FEp127
	case Float32:
		return math.MaxFloat32
	}
	return math.MaxFloat64
}

// round is the value of a floating-point type that is nearest to v.
func (d DType) round(v float64) float64 {
	step := func(fraction, least int) float64 {
		_, exp := math.Frexp(v)
		unit := math.Ldexp(1, max(exp-1, least)-fraction)
		return math.RoundToEven(v/unit) * unit
	}
	switch {
	case d == Float64 || v == 0 || math.IsInf(v, 0) || math.IsNaN(v):
		return v
	case d == Float16:
		return step(10, -14)
	case d == BFloat16:
		return step(7, -126)
	}
	return float64(float32(v))
}

// floatSpan is the range from low to high in the values of d.
func (d DType) floatSpan(low, high float64, infinities bool) span[float64] {
	// A finite bound that rounds to infinity would let infinity in.
	if !infinities || !math.IsInf(low, -1) {
		low = max(low, -d.greatest())
	}
	if !infinities || !math.IsInf(high, 1) {
		high = min(high, d.greatest())
	}
	return span[float64]{d.round(low), d.round(high)}
}

// intSpan is the range from low to high in keys of d; low is greater than high
// if d has no such value.
func (d DType) intSpan(low, high float64) span[int64] {
	bits := 8 * d.Size()
	bottom, top := 0.0, math.Ldexp(1, bits) // the type's values are below top
	if d.signed() {
		top /= 2
		bottom = -top
	}
	low, high = max(math.Ceil(low), bottom), math.Floor(high)
	if !(low <= high) || low >= top {
		return span[int64]{1, 0}
	}
	key := func(v float64) int64 {
		if d == Uint64 {
			return int64(uint64(v) ^ 1<<63) //nolint:gosec // as key does
		}
		return int64(v)
	}
	if high < top {
		return span[int64]{key(low), key(high)}
	}
	if bits == 64 { // top-1 is no float64
		return span[int64]{key(low), math.MaxInt64}
	}
	return span[int64]{key(low), key(top - 1)}
}

// floatAt is element i of a tensor of a floating-point type.
func floatAt(d DType, data []byte, i int) float64 {
	switch d { //nolint:exhaustive // the others are no floating-point types
	case Float64:
		return math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
	case Float32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
	case BFloat16:
		return float64(FromBFloat16Bits(binary.LittleEndian.Uint16(data[2*i:])))
	}
	return float64(FromFloat16Bits(binary.LittleEndian.Uint16(data[2*i:])))
}

// key is element i of a tensor of an integer type, in an order that all share:
// a UINT64 is moved down by 2^63 to fit.
func key(d DType, data []byte, i int) int64 {
	switch d { //nolint:exhaustive // the others are no integer types
	case Int8:
		return int64(int8(data[i])) //nolint:gosec // the same bits
	case Uint8:
		return int64(data[i])
	case Int16:
		return int64(int16(binary.LittleEndian.Uint16(data[2*i:]))) //nolint:gosec // the same bits
	case Uint16:
		return int64(binary.LittleEndian.Uint16(data[2*i:]))
	case Int32:
		return int64(int32(binary.LittleEndian.Uint32(data[4*i:]))) //nolint:gosec // the same bits
	case Uint32:
		return int64(binary.LittleEndian.Uint32(data[4*i:]))
	case Uint64:
		return int64(binary.LittleEndian.Uint64(data[8*i:]) ^ 1<<63) //nolint:gosec // the same bits but one
	}
	return int64(binary.LittleEndian.Uint64(data[8*i:])) //nolint:gosec // the same bits
}

// whyFloat says why x is not in column j's range.
func (n *numberContract) whyFloat(d DType, x float64, j int) string {
	s := n.floats[j]
	bits := 32
	if d == Float64 {
		bits = 64
	}
	switch {
	case math.IsNaN(x):
		return "must not be NaN"
	case x < s.low && s.low == -d.greatest(), x > s.high && s.high == d.greatest():
		return "must not be infinite"
	case x < s.low:
		return "must be at least " + strconv.FormatFloat(s.low, 'g', -1, bits)
	}
	return "must be at most " + strconv.FormatFloat(s.high, 'g', -1, bits)
}

// whyInt says why the number with key k is not in column j's range.
func (n *numberContract) whyInt(d DType, k int64, j int) string {
	what, bound := "must be at most ", n.ints[j].high
	if k < n.ints[j].low {
		what, bound = "must be at least ", n.ints[j].low
	}
	if d == Uint64 {
		return what + strconv.FormatUint(uint64(bound)^1<<63, 10) //nolint:gosec // as key does
	}
	return what + strconv.FormatInt(bound, 10)
}
