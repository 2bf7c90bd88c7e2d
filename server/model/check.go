package model

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// maxViolations is how many violations a ContractError describes.
const maxViolations = 16

// maxEmpty bounds the dimensions of a tensor without elements: a few bytes must
// not ask the model for an output of 2^31 rows.
const maxEmpty = 1 << 20

// Violation is one way in which a request breaks a contract. It tells position
// and rule, never the value, which may be private.
type Violation struct {
	// Field is where: `inputs["features"][12,"mean_radius"]`, `outputs[0]`.
	Field string
	// Description is what must hold there.
	Description string
}

// ContractError says how a request breaks the model's contract.
type ContractError struct {
	// Violations has the first 16.
	Violations []Violation
	// More is the number of those found beyond.
	More int64
}

func (e *ContractError) Error() string {
	var b strings.Builder
	b.WriteString("contract violated: ")
	for i, v := range e.Violations {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(v.Field + " " + v.Description)
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "; and %d more", e.More)
	}
	return b.String()
}

// Check tells whether the contract admits these inputs and the outputs asked
// for by name, and returns the number of rows: 1 for a model without a row
// dimension. The error is a *ContractError. Elements are looked at only if
// every name, type and shape is right. Inputs are read, not kept.
func (c *Contract) Check(inputs map[string]*Tensor, outputs []string) (rows int64, err error) {
	var r report
	rows = c.checkShapes(inputs, &r)
	c.checkNames(inputs, outputs, &r)
	if r.err != nil {
		return 0, r.err
	}
	for i := range c.inputs {
		c.inputs[i].checkElements(inputs[c.inputs[i].name], &r)
	}
	if r.err != nil {
		return 0, r.err
	}
	return rows, nil
}

func (c *Contract) checkShapes(inputs map[string]*Tensor, r *report) (rows int64) {
	rows = 1
	first := -1 // the input that rows is of
	for i := range c.inputs {
		in := &c.inputs[i]
		t := inputs[in.name]
		if t == nil {
			r.input(in.name, "is missing")
			continue
		}
		if t.DType != in.dtype {
			r.input(in.name, fmt.Sprintf("must be %s, is %s", in.dtype, t.DType))
			continue
		}
		if !fits(t.Shape, in.shape) {
			r.input(in.name, fmt.Sprintf("must have the shape %s, has %s", shape(in.shape), shape(t.Shape)))
			continue
		}
		if err := t.Validate(); err != nil {
			r.input(in.name, err.Error())
			continue
		}
		if excessive(t.Shape) {
			r.input(in.name, fmt.Sprintf("has no elements, but dimensions beyond %d", maxEmpty))
			continue
		}
		switch {
		case !in.hasRows():
		case t.Rows() < 1:
			r.input(in.name, "must have at least 1 row")
		case t.Rows() > c.maxRows:
			r.input(in.name, fmt.Sprintf("must have at most %d rows, has %d", c.maxRows, t.Rows()))
		case first < 0:
			first, rows = i, t.Rows()
		case t.Rows() != rows:
			r.input(in.name, fmt.Sprintf("must have as many rows as inputs[%q], %d, has %d", c.inputs[first].name, rows, t.Rows()))
		}
	}
	return rows
}

func (c *Contract) checkNames(inputs map[string]*Tensor, outputs []string, r *report) {
	known := 0
	for i := range c.inputs {
		if _, ok := inputs[c.inputs[i].name]; ok {
			known++
		}
	}
	if known < len(inputs) {
		for _, name := range slices.Sorted(maps.Keys(inputs)) {
			if !slices.ContainsFunc(c.inputs, func(in inputContract) bool { return in.name == name }) {
				r.add("inputs["+quote(name)+"]", "is no input of the model")
			}
		}
	}
	for i, name := range outputs {
		if !slices.Contains(c.outputs, name) {
			r.add("outputs["+strconv.Itoa(i)+"]", quote(name)+" is no output of the model")
		}
	}
}

func (in *inputContract) checkElements(t *Tensor, r *report) {
	switch {
	case in.dtype == String:
		in.checkStrings(t, r)
	case in.dtype == Bool:
		for i, b := range t.Data {
			if b > 1 {
				r.element(in, t, i, "must be 0 or 1")
			}
		}
	case in.dtype == Float32 && in.numbers.allowedFloats == nil:
		in.checkFloat32s(t, r)
	case in.dtype.float():
		in.checkFloats(t, r)
	default:
		in.checkInts(t, r)
	}
}

// checkFloat32s is checkFloats for the commonest type.
func (in *inputContract) checkFloat32s(t *Tensor, r *report) {
	spans := in.numbers.float32s
	numbers := float32s(t.Data)
	if len(spans) == 1 {
		s := spans[0]
		for i, x := range numbers {
			if !(x >= s.low && x <= s.high) {
				in.refuseFloat(t, i, 0, float64(x), r)
			}
		}
		return
	}
	for at := 0; at < len(numbers); at += len(spans) {
		row := numbers[at : at+len(spans)]
		// Most rows are right: the loop over one is left without calls.
		if within(spans, row) {
			continue
		}
		for j, x := range row {
			if !(x >= spans[j].low && x <= spans[j].high) {
				in.refuseFloat(t, at+j, j, float64(x), r)
			}
		}
	}
}

// within tells whether every element of a row is in its column's range.
func within(spans []span[float32], row []float32) bool {
	row = row[:len(spans)]
	for i := range spans {
		if x := row[i]; !(x >= spans[i].low && x <= spans[i].high) {
			return false
		}
	}
	return true
}

// float32s are the numbers that data is: where it is, if they may begin there. To
// take each out of its bytes made the check twice as long, a third of a run.
func float32s(data []byte) []float32 {
	n := len(data) / 4
	if n == 0 {
		return nil
	}
	first := unsafe.Pointer(&data[0]) //nolint:gosec // data has n of them from there
	if littleEndian && uintptr(first)%4 == 0 {
		return unsafe.Slice((*float32)(first), n) //nolint:gosec // as above
	}
	numbers := make([]float32, n)
	for i := range numbers {
		numbers[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return numbers
}

// littleEndian tells whether this machine is, as tensors are.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func (in *inputContract) checkFloats(t *Tensor, r *report) {
	n := &in.numbers
	for i := range len(t.Data) / in.dtype.Size() {
		j := i % len(n.floats)
		x := floatAt(in.dtype, t.Data, i)
		if !(x >= n.floats[j].low && x <= n.floats[j].high) {
			in.refuseFloat(t, i, j, x, r)
		} else if n.allowedFloats != nil && !contains(n.allowedFloats, x) {
			r.element(in, t, i, notAllowed)
		}
	}
}

// refuseFloat refuses what is in no range, NaN among it, unless that is allowed.
func (in *inputContract) refuseFloat(t *Tensor, i, j int, x float64, r *report) {
	if math.IsNaN(x) && in.numbers.allowNaN {
		return
	}
	if r.room() {
		r.element(in, t, i, in.numbers.whyFloat(in.dtype, x, j))
	}
}

func (in *inputContract) checkInts(t *Tensor, r *report) {
	n := &in.numbers
	for i := range len(t.Data) / in.dtype.Size() {
		j := i % len(n.ints)
		k := key(in.dtype, t.Data, i)
		if k < n.ints[j].low || k > n.ints[j].high {
			if r.room() {
				r.element(in, t, i, n.whyInt(in.dtype, k, j))
			}
		} else if n.allowedInts != nil && !contains(n.allowedInts, k) {
			r.element(in, t, i, notAllowed)
		}
	}
}

const notAllowed = "must be one of the values allowed"

func contains[T float64 | int64](sorted []T, x T) bool {
	_, found := slices.BinarySearch(sorted, x)
	return found
}

func (in *inputContract) checkStrings(t *Tensor, r *report) {
	for i, s := range t.Strings {
		switch {
		case len(s) > in.maxStringBytes:
			r.element(in, t, i, "must have at most "+strconv.Itoa(in.maxStringBytes)+" bytes")
		case !utf8.ValidString(s):
			r.element(in, t, i, "must be valid UTF-8")
		case strings.IndexByte(s, 0) >= 0:
			// Runtimes take C strings: what follows would be cut off unseen.
			r.element(in, t, i, "must not contain the character U+0000")
		case in.allowedStrings != nil && !in.allowedStrings[s]:
			r.element(in, t, i, notAllowed)
		}
	}
}

// fits tells whether a shape is one that a pattern with -1 for any length
// describes.
func fits(shape, pattern []int64) bool {
	return slices.EqualFunc(shape, pattern, func(n, p int64) bool { return n == p || p == -1 })
}

// excessive tells whether a tensor without elements has large dimensions.
func excessive(shape []int64) bool {
	if !slices.Contains(shape, 0) {
		return false
	}
	n := int64(1)
	for _, d := range shape {
		if d > maxEmpty || n > maxEmpty {
			return true
		}
		n *= max(d, 1)
	}
	return n > maxEmpty
}

// shape is a shape for people: "[any, 30]".
func shape(dims []int64) string {
	parts := make([]string, len(dims))
	for i, d := range dims {
		parts[i] = strconv.FormatInt(d, 10)
		if d == -1 {
			parts[i] = "any"
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}
