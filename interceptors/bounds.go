package interceptors

import (
	"fmt"
	"unicode/utf8"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// bounds are the limits that the schema's own rules set to the number of items,
// of map entries and to the length of texts in messages of one type. They are
// held against the bytes of a message before it is decoded: decoding makes of
// four megabytes of empty map entries half a gigabyte, and checking the rules
// of each takes seconds.
type bounds struct {
	fields map[protowire.Number]*fieldBounds
	count  int // of fields with an index into a scan's counters
}

type fieldBounds struct {
	name     string
	index    int
	maxItems uint64 // 0 for any number
	maxBytes int    // of a text; 0 for any length
	numbers  bool   // whether items are numbers that can be packed
	fixed    int    // the width of a packed item; 0 for a varint
	inner    *bounds
}

// boundsOf compiles the bounds of a message type. Types may contain each other.
func boundsOf(md protoreflect.MessageDescriptor, known map[protoreflect.FullName]*bounds) (*bounds, error) {
	if b := known[md.FullName()]; b != nil {
		return b, nil
	}
	b := &bounds{fields: make(map[protowire.Number]*fieldBounds)}
	known[md.FullName()] = b
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		rules, err := protovalidate.ResolveFieldRules(fd)
		if err != nil {
			return nil, err
		}
		f := &fieldBounds{name: string(fd.Name()), index: b.count}
		b.count++
		b.fields[fd.Number()] = f
		switch {
		case fd.IsMap():
			f.maxItems = rules.GetMap().GetMaxPairs()
			f.inner = &bounds{count: 2, fields: map[protowire.Number]*fieldBounds{
				1: {name: "key", maxBytes: textBound(rules.GetMap().GetKeys().GetString().GetMaxBytes(), rules.GetMap().GetKeys().GetString().GetMaxLen())},
			}}
			if value := fd.MapValue(); value.Message() != nil {
				inner, err := boundsOf(value.Message(), known)
				if err != nil {
					return nil, err
				}
				f.inner.fields[2] = &fieldBounds{name: "value", index: 1, inner: inner}
			}
			continue
		case fd.IsList():
			f.maxItems = rules.GetRepeated().GetMaxItems()
			rules = rules.GetRepeated().GetItems()
		}
		switch fd.Kind() {
		case protoreflect.MessageKind, protoreflect.GroupKind:
			if f.inner, err = boundsOf(fd.Message(), known); err != nil {
				return nil, err
			}
		case protoreflect.StringKind:
			f.maxBytes = textBound(rules.GetString().GetMaxBytes(), rules.GetString().GetMaxLen())
		case protoreflect.BytesKind:
		case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
			f.numbers, f.fixed = true, 4
		case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
			f.numbers, f.fixed = true, 8
		default:
			f.numbers = true
		}
	}
	return b, nil
}

// textBound is the most bytes that a text under the two rules can have.
func textBound(maxBytes, maxLen uint64) int {
	if maxBytes == 0 {
		maxBytes = maxLen * utf8.UTFMax
	}
	return int(min(maxBytes, 1<<30))
}

// check refuses a message that is outside the bounds. It passes over what is
// not Protobuf, which decoding will find.
func (b *bounds) check(data []byte) *Refusal {
	path, problem := b.scan(data)
	if problem == "" {
		return nil
	}
	return &Refusal{Reason: RequestInvalid, Violations: []*errdetails.BadRequest_FieldViolation{{Field: path, Description: problem}}}
}

func (b *bounds) scan(data []byte) (path, problem string) {
	var few [16]uint64
	counts := few[:]
	if b.count > len(few) {
		counts = make([]uint64, b.count)
	}
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return "", ""
		}
		data = data[n:]
		f := b.fields[number]
		var value []byte
		if kind == protowire.BytesType {
			value, n = protowire.ConsumeBytes(data)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 {
			return "", ""
		}
		data = data[n:]
		if f == nil {
			continue
		}
		counts[f.index] += f.items(kind, value)
		switch {
		case f.maxItems > 0 && counts[f.index] > f.maxItems:
			return f.name, fmt.Sprintf("must have at most %d items", f.maxItems)
		case f.maxBytes > 0 && len(value) > f.maxBytes:
			return f.name, fmt.Sprintf("must have at most %d bytes", f.maxBytes)
		case f.inner != nil && kind == protowire.BytesType:
			if inner, problem := f.inner.scan(value); problem != "" {
				return f.name + "." + inner, problem
			}
		}
	}
	return "", ""
}

// items is how many items one occurrence of the field has.
func (f *fieldBounds) items(kind protowire.Type, value []byte) uint64 {
	if !f.numbers || kind != protowire.BytesType || f.maxItems == 0 {
		return 1
	}
	if f.fixed > 0 {
		return uint64(len(value) / f.fixed) //nolint:gosec // a length
	}
	n := uint64(0)
	for _, b := range value {
		if b < 0x80 { // the last byte of a varint
			n++
		}
	}
	return n
}
