package inference

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// The rules of the schema that the decoder holds.
const (
	maxNameBytes  = 128
	maxInputs     = 256
	maxKeyBytes   = 256
	maxDimensions = 16
)

// decodeRequest decodes a prediction request, or a message of a prediction stream,
// that is as clients send them and keeps every rule of the schema. It is false for
// any other, be it valid, and m then holds anything: the caller decodes and checks
// it in the general way. Without reflection it costs a fifth of that.
//
// The message refers to one copy of data. In it the elements of the first input are
// where ONNX Runtime can read them, so that they are not copied again.
func decodeRequest(data mem.BufferSlice, m proto.Message) bool {
	switch m := m.(type) {
	case *inferencev1.PredictRequest:
		m.Reset()
		return decodePredict(copyOf(data, 3, 2, 3), m)
	case *inferencev1.PredictStreamRequest:
		m.Reset()
		return decodeStream(copyOf(data, 2, 2, 2, 3), m)
	}
	return false
}

func decodePredict(data []byte, m *inferencev1.PredictRequest) bool {
	d := decoder{data}
	for !d.end() {
		var ok bool
		switch d.tag() {
		case 1<<3 | tagBytes:
			m.Model, ok = d.text(maxNameBytes)
		case 2<<3 | tagVarint:
			m.Version, ok = d.int64()
		case 3<<3 | tagBytes:
			m.Inputs, ok = d.input(m.Inputs)
		case 4<<3 | tagBytes:
			m.Outputs, ok = d.name(m.Outputs)
		}
		if !ok {
			return false
		}
	}
	return isName(m.Model) && m.Version >= 0 && len(m.Inputs) > 0
}

func decodeStream(data []byte, m *inferencev1.PredictStreamRequest) bool {
	d := decoder{data}
	// The opening comes once in a stream.
	if d.tag() != 2<<3|tagBytes {
		return false
	}
	body, ok := d.bytes()
	if !ok || !d.end() {
		return false
	}
	batch := &struct {
		message inferencev1.PredictStreamRequest_Batch
		batch   inferencev1.StreamBatch
	}{}
	d = decoder{body}
	for !d.end() {
		var ok bool
		switch d.tag() {
		case 1<<3 | tagVarint:
			batch.batch.Sequence, ok = d.varint()
		case 2<<3 | tagBytes:
			batch.batch.Inputs, ok = d.input(batch.batch.Inputs)
		}
		if !ok {
			return false
		}
	}
	batch.message.Batch = &batch.batch
	m.Message = &batch.message
	return len(batch.batch.Inputs) > 0
}

// isName tells whether s matches the schema's pattern for a model's name.
func isName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return s != ""
}

// decoder reads fields from data. Where a result is false, data is not as expected,
// and nothing more can be read.
type decoder struct{ data []byte }

// Wire types, as a field's tag has them in its low bits.
const (
	tagVarint = int(protowire.VarintType)
	tagBytes  = int(protowire.BytesType)
)

func (d *decoder) end() bool { return len(d.data) == 0 }

// tag reads the tag of a field whose number is below 16; else it is 0.
func (d *decoder) tag() int {
	if d.end() || d.data[0] >= 0x80 {
		return 0
	}
	t := d.data[0]
	d.data = d.data[1:]
	return int(t)
}

func (d *decoder) varint() (uint64, bool) {
	v, n := protowire.ConsumeVarint(d.data)
	if n < 0 {
		return 0, false
	}
	d.data = d.data[n:]
	return v, true
}

func (d *decoder) int64() (int64, bool) {
	v, ok := d.varint()
	return int64(v), ok //nolint:gosec // as Protobuf encodes it
}

func (d *decoder) bytes() ([]byte, bool) {
	v, n := protowire.ConsumeBytes(d.data)
	if n < 0 {
		return nil, false
	}
	d.data = d.data[n:]
	return v, true
}

// text reads a text of at most so many bytes. It refers to data.
func (d *decoder) text(most int) (string, bool) {
	b, ok := d.bytes()
	if !ok || len(b) > most || !utf8.Valid(b) {
		return "", false
	}
	return unsafe.String(unsafe.SliceData(b), len(b)), true //nolint:gosec // data does not change
}

// fewOutputs is how many names of outputs are compared each with each. The schema has
// room for more, which go the general way.
const fewOutputs = 16

// name reads the name of an output that is not among names.
func (d *decoder) name(names []string) ([]string, bool) {
	s, ok := d.text(maxKeyBytes)
	if !ok || s == "" || len(names) == fewOutputs {
		return nil, false
	}
	for _, other := range names {
		if other == s {
			return nil, false
		}
	}
	return append(names, s), true
}

// input reads an entry of the inputs. A name that comes twice ends it.
func (d *decoder) input(inputs map[string]*inferencev1.Tensor) (map[string]*inferencev1.Tensor, bool) {
	entry, ok := d.bytes()
	if !ok || len(inputs) == maxInputs {
		return nil, false
	}
	e := decoder{entry}
	if e.tag() != 1<<3|tagBytes {
		return nil, false
	}
	name, ok := e.text(maxKeyBytes)
	if !ok || name == "" || e.tag() != 2<<3|tagBytes {
		return nil, false
	}
	value, ok := e.bytes()
	if !ok || !e.end() {
		return nil, false
	}
	t, ok := (&decoder{value}).tensor()
	if !ok || inputs[name] != nil {
		return nil, false
	}
	if inputs == nil {
		inputs = make(map[string]*inferencev1.Tensor, 1)
	}
	inputs[name] = t
	return inputs, true
}

// tensor reads a tensor, to the end of data.
func (d *decoder) tensor() (*inferencev1.Tensor, bool) {
	memory := &struct {
		tensor inferencev1.Tensor
		shape  [4]int64
	}{}
	t := &memory.tensor
	t.Shape = memory.shape[:0]
	for !d.end() {
		ok := false
		switch d.tag() {
		case 1<<3 | tagVarint:
			var v uint64
			v, ok = d.varint()
			ok = ok && v < uint64(len(dtypes))
			t.DataType = inferencev1.DataType(v) //nolint:gosec // below
		case 2<<3 | tagBytes:
			t.Shape, ok = varints(d, t.Shape, maxDimensions)
		case 3<<3 | tagBytes:
			t.Raw, ok = d.bytes()
		case 4<<3 | tagBytes:
			t.BoolValues, ok = bools(d, t.BoolValues)
		case 5<<3 | tagBytes:
			t.Int64Values, ok = varints(d, t.Int64Values, math.MaxInt)
		case 6<<3 | tagBytes:
			t.Uint64Values, ok = varints(d, t.Uint64Values, math.MaxInt)
		case 7<<3 | tagBytes:
			t.FloatValues, ok = floats(d, t.FloatValues)
		case 8<<3 | tagBytes:
			t.DoubleValues, ok = doubles(d, t.DoubleValues)
		case 9<<3 | tagBytes:
			var s string
			s, ok = d.text(math.MaxInt)
			t.StringValues = append(t.StringValues, s)
		}
		if !ok {
			return nil, false
		}
	}
	return t, t.DataType != 0
}

// varints reads packed numbers, most of them at most, into values, which is empty.
func varints[T int64 | uint64](d *decoder, values []T, most int) ([]T, bool) {
	b, ok := d.bytes()
	if !ok || len(values) > 0 {
		return nil, false
	}
	n := 0
	for _, c := range b {
		if c < 0x80 { // the last byte of a number
			n++
		}
	}
	if n > most {
		return nil, false
	}
	if n > cap(values) {
		values = make([]T, 0, n)
	}
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return nil, false
		}
		values = append(values, T(v))
		b = b[n:]
	}
	return values, true
}

func bools(d *decoder, values []bool) ([]bool, bool) {
	b, ok := d.bytes()
	if !ok || len(values) > 0 {
		return nil, false
	}
	values = make([]bool, len(b))
	for i, c := range b {
		if c > 1 { // another spelling
			return nil, false
		}
		values[i] = c == 1
	}
	return values, true
}

func floats(d *decoder, values []float32) ([]float32, bool) {
	b, ok := d.bytes()
	if !ok || len(b)%4 != 0 || len(values) > 0 {
		return nil, false
	}
	values = make([]float32, len(b)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return values, true
}

func doubles(d *decoder, values []float64) ([]float64, bool) {
	b, ok := d.bytes()
	if !ok || len(b)%8 != 0 || len(values) > 0 {
		return nil, false
	}
	values = make([]float64, len(b)/8)
	for i := range values {
		values[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return values, true
}
