package audit

import (
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// recordShape is what Verify knows of an encoded record. To decode each would be
// more than half of its time.
var recordShape = shapeOf((*auditv1.Record)(nil).ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})

// shape is what decoding a message can stumble over, by field number.
type shape struct{ fields []fieldShape }

type fieldShape struct {
	text    bool
	message *shape
	packed  func([]byte) int // consumes one of several values; nil if there are none
}

func shapeOf(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s := known[d.FullName()]; s != nil {
		return s
	}
	s := new(shape)
	known[d.FullName()] = s
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		for int(f.Number()) >= len(s.fields) {
			s.fields = append(s.fields, fieldShape{})
		}
		at := &s.fields[f.Number()]
		switch f.Kind() {
		case protoreflect.StringKind:
			at.text = true
		case protoreflect.MessageKind:
			at.message = shapeOf(f.Message(), known)
		case protoreflect.BytesKind, protoreflect.GroupKind:
		default:
			if f.IsList() {
				at.packed = consumerOf(f.Kind())
			}
		}
	}
	return s
}

func consumerOf(k protoreflect.Kind) func([]byte) int {
	return func(b []byte) (n int) {
		switch k {
		case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
			_, n = protowire.ConsumeFixed32(b)
		case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
			_, n = protowire.ConsumeFixed64(b)
		default:
			_, n = protowire.ConsumeVarint(b)
		}
		return n
	}
}

// wellFormed tells whether proto.Unmarshal would decode a message of that shape.
func (s *shape) wellFormed(b []byte) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > protowire.MaxValidNumber {
			return false
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return false
		}
		if typ == protowire.BytesType && int(num) < len(s.fields) {
			value, _ := protowire.ConsumeBytes(b)
			if !s.fields[num].wellFormed(value) {
				return false
			}
		}
		b = b[n:]
	}
	return true
}

func (f *fieldShape) wellFormed(value []byte) bool {
	switch {
	case f.text:
		return utf8.Valid(value)
	case f.message != nil:
		return f.message.wellFormed(value)
	case f.packed != nil:
		for len(value) > 0 {
			n := f.packed(value)
			if n < 0 {
				return false
			}
			value = value[n:]
		}
	}
	return true
}

// check checks the record that next returned last as decode does, and returns what
// has to be known of it.
func (r *reader) check(raw []byte) (c clearPart, err error) {
	if c = readClear(raw); c.sequence != r.seq || !recordShape.wellFormed(raw) {
		return c, r.undecodable()
	}
	return c, nil
}

func (c *clearPart) time() time.Time { return time.Unix(0, c.at).UTC() }
