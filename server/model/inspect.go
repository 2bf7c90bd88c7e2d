package model

import (
	"errors"
	"fmt"
	"iter"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Reasons for which Inspect refuses an artefact.
var (
	// ErrMalformed says that the bytes are not an ONNX model.
	ErrMalformed = errors.New("malformed ONNX model")
	// ErrExternal says that a part of the model lies outside the artefact, where
	// its digest does not reach.
	ErrExternal = errors.New("data outside the artefact")
	// ErrOperator says that an operator comes from a domain that is not allowed.
	ErrOperator = errors.New("operator domain not allowed")
)

// domains are the operator domains that a model may import, and whether its
// nodes may use them. Those that nodes may use are ONNX's own and the one that
// ONNX Runtime adds: scikit-learn's text models need its Tokenizer, and all its
// operators are in the one library that is pinned. The rest is what ONNX
// Runtime's optimiser writes into any model it saves, used or not.
var domains = map[string]bool{
	"":                           true,
	"ai.onnx":                    true,
	"ai.onnx.ml":                 true,
	"com.microsoft":              true,
	"ai.onnx.preview.training":   false,
	"ai.onnx.training":           false,
	"com.microsoft.experimental": false,
	"com.microsoft.nchwc":        false,
	"com.ms.internal.nhwc":       false,
	"org.pytorch.aten":           false,
}

// Inspect looks through a serialised ONNX model, before a runtime does, for
// what it must not have: data in other files, operators from elsewhere, nesting
// without end. Functions that the model defines itself are allowed in domains
// of any name. Errors wrap one of the above and name node and tensor. Weights
// are passed over: the cost is linear in the number of nodes and tensors, not
// in their size.
func Inspect(artifact []byte) error {
	// ONNX Runtime reads bytes with this mark as its own format, which can name
	// external data too, even if they are an ONNX model as well.
	if len(artifact) >= 8 && string(artifact[4:8]) == "ORTM" {
		return fmt.Errorf("%w: it is in ONNX Runtime's own format (ORT)", ErrMalformed)
	}
	in := inspector{functions: map[operator]bool{}, local: map[string]bool{}}
	graphs := 0
	for f, err := range fields(artifact) {
		switch {
		case err != nil:
			return err
		case f.number == 7:
			graphs++
		case f.number == 25:
			op := operator{domain: text(f.bytes, 10), name: text(f.bytes, 1)}
			in.functions[op], in.local[op.domain] = true, true
		}
	}
	if graphs == 0 {
		return fmt.Errorf("%w: there is no graph", ErrMalformed)
	}
	return in.walk(modelProto, artifact, 0)
}

// maxDepth is how deep messages may nest: protobuf's own limit in C++.
const maxDepth = 100

// A message is one of those of onnx.proto that hold, at any depth, what is
// looked for.
type message uint8

const (
	modelProto message = iota
	trainingProto
	functionProto
	graphProto
	nodeProto
	attributeProto
	sparseProto
	tensorProto
	opsetProto
)

// schema has the number of every field that holds a message, and for the errors
// what a message is called and the number of its name.
var schema = [...]struct {
	what   string
	name   protowire.Number
	fields map[protowire.Number]message
}{
	modelProto:     {fields: map[protowire.Number]message{7: graphProto, 8: opsetProto, 20: trainingProto, 25: functionProto}},
	trainingProto:  {what: "training", fields: map[protowire.Number]message{1: graphProto, 2: graphProto}},
	functionProto:  {what: "function", name: 1, fields: map[protowire.Number]message{7: nodeProto, 9: opsetProto, 11: attributeProto}},
	graphProto:     {fields: map[protowire.Number]message{1: nodeProto, 5: tensorProto, 15: sparseProto}},
	nodeProto:      {what: "node", name: 3, fields: map[protowire.Number]message{5: attributeProto}},
	attributeProto: {what: "attribute", name: 1, fields: map[protowire.Number]message{5: tensorProto, 6: graphProto, 10: tensorProto, 11: graphProto, 22: sparseProto, 23: sparseProto}},
	sparseProto:    {what: "sparse tensor", fields: map[protowire.Number]message{1: tensorProto, 2: tensorProto}},
	tensorProto:    {what: "tensor", name: 8},
	opsetProto:     {what: "opset import"},
}

type operator struct{ domain, name string }

type inspector struct {
	functions map[operator]bool
	local     map[string]bool // domains of functions
}

func (in *inspector) walk(m message, b []byte, depth int) error {
	err := in.check(m, b)
	if err == nil && depth > maxDepth {
		err = fmt.Errorf("%w: it nests deeper than %d messages", ErrMalformed, maxDepth)
	}
	if err == nil {
		err = in.children(m, b, depth)
	}
	if err == nil || schema[m].what == "" {
		return err
	}
	if name := text(b, schema[m].name); name != "" {
		return fmt.Errorf("%s %s: %w", schema[m].what, quote(name), err)
	}
	return fmt.Errorf("%s: %w", schema[m].what, err)
}

func (in *inspector) children(m message, b []byte, depth int) error {
	for f, err := range fields(b) {
		if err != nil {
			return err
		}
		child, ok := schema[m].fields[f.number]
		if !ok {
			continue
		}
		if f.wire != protowire.BytesType {
			return fmt.Errorf("%w: field %d is no message", ErrMalformed, f.number)
		}
		if err := in.walk(child, f.bytes, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (in *inspector) check(m message, b []byte) error {
	switch m { //nolint:exhaustive // the others only hold messages
	case tensorProto:
		for f, err := range fields(b) {
			switch {
			case err != nil:
				return err
			case f.number == 13, f.number == 14 && f.varint != 0:
				return ErrExternal
			}
		}
	case opsetProto:
		domain := text(b, 1)
		if _, known := domains[domain]; !known && !in.local[domain] {
			return fmt.Errorf("%w: %s", ErrOperator, quote(domain))
		}
	case nodeProto:
		op := operator{domain: text(b, 7), name: text(b, 4)}
		switch {
		case !domains[op.domain] && !in.functions[op]:
			return fmt.Errorf("%w: %s of %s", ErrOperator, quote(op.name), quote(op.domain))
		case op == operator{"com.microsoft", "EPContext"}:
			return fmt.Errorf("%w: operator EPContext", ErrExternal) // it names a compiled model
		}
	}
	return nil
}

// field is one field of a message as it is on the wire.
type field struct {
	number protowire.Number
	wire   protowire.Type
	varint uint64
	bytes  []byte
}

// fields yields the fields of a message, last an error if it is malformed.
func fields(b []byte) iter.Seq2[field, error] {
	return func(yield func(field, error) bool) {
		for len(b) > 0 {
			var f field
			var n int
			f.number, f.wire, n = protowire.ConsumeTag(b)
			if n >= 0 {
				b = b[n:]
				switch f.wire {
				case protowire.VarintType:
					f.varint, n = protowire.ConsumeVarint(b)
				case protowire.BytesType:
					f.bytes, n = protowire.ConsumeBytes(b)
				case protowire.Fixed32Type, protowire.Fixed64Type:
					n = protowire.ConsumeFieldValue(f.number, f.wire, b)
				default: // groups, which ONNX has none of
					n = math.MinInt
				}
			}
			if n < 0 {
				yield(field{}, fmt.Errorf("%w: not a protobuf message", ErrMalformed))
				return
			}
			b = b[n:]
			if !yield(f, nil) {
				return
			}
		}
	}
}

// text is the string in a field of a message, the last if there are several and
// none of another wire type, as protobuf has it.
func text(b []byte, number protowire.Number) string {
	var s []byte
	for f, err := range fields(b) {
		if err == nil && f.number == number && f.wire == protowire.BytesType {
			s = f.bytes
		}
	}
	return string(s)
}

// quote makes what a file or a request brought fit for a line of a log.
func quote(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%q…", s[:64])
	}
	return fmt.Sprintf("%q", s)
}
