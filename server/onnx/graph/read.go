package graph

import (
	"errors"
	"fmt"
	"iter"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of onnx.proto, by message.
const (
	modelGraph = 7

	graphNode, graphName, graphInitializer, graphInput, graphOutput, graphSparse = 1, 2, 5, 11, 12, 15

	nodeInput, nodeOutput, nodeOp, nodeAttribute, nodeDomain = 1, 2, 4, 5, 7

	attrName, attrI, attrS, attrG, attrFloats, attrInts, attrStrings, attrType = 1, 3, 4, 6, 7, 8, 9, 20

	tensorDims, tensorElem, tensorName, tensorRaw = 1, 2, 8, 9
	sparseValues                                  = 1

	valueName, valueType            = 1, 2
	typeTensor, typeSequence        = 1, 4
	typeMap                         = 5
	tensorTypeElem, tensorTypeShape = 1, 2
	sequenceTypeElem                = 1
	shapeDim, dimValue              = 1, 1
)

var errWire = errors.New("not an ONNX model")

// Parse reads the graph of a serialized ONNX model. What it returns shares no
// memory with b. Nested graphs are not read.
func Parse(b []byte) (*Graph, error) {
	g, found := new(Graph), false
	for f, err := range fields(b) {
		if err != nil {
			return nil, err
		}
		// A message may come in pieces, which add up.
		if f.num == modelGraph {
			found = true
			if err := g.read(f.bytes); err != nil {
				return nil, err
			}
		}
	}
	if !found {
		return nil, errWire
	}
	return g, nil
}

func (g *Graph) read(b []byte) error {
	for f, err := range fields(b) {
		if err != nil {
			return err
		}
		switch f.num {
		case graphNode:
			n, err := readNode(f.bytes)
			if err != nil {
				return err
			}
			g.Nodes = append(g.Nodes, n)
		case graphInitializer, graphSparse:
			name, err := readInitializerName(f)
			if err != nil {
				return err
			}
			g.Initializers = append(g.Initializers, Initializer{Name: name})
		case graphInput, graphOutput:
			v, err := readValue(f.bytes)
			if err != nil {
				return err
			}
			if f.num == graphInput {
				g.Inputs = append(g.Inputs, v)
			} else {
				g.Outputs = append(g.Outputs, v)
			}
		}
	}
	return nil
}

func readNode(b []byte) (n Node, err error) {
	for f, err := range fields(b) {
		if err != nil {
			return n, err
		}
		switch f.num {
		case nodeInput:
			n.Inputs = append(n.Inputs, string(f.bytes))
		case nodeOutput:
			n.Outputs = append(n.Outputs, string(f.bytes))
		case nodeOp:
			n.Op = string(f.bytes)
		case nodeDomain:
			n.Domain = string(f.bytes)
		case nodeAttribute:
			a, err := readAttribute(f.bytes)
			if err != nil {
				return n, err
			}
			n.Attributes = append(n.Attributes, a)
		}
	}
	return n, nil
}

func readAttribute(b []byte) (a Attribute, err error) {
	var ints []int64
	var strings []string
	for f, err := range fields(b) {
		if err != nil {
			return a, err
		}
		switch f.num {
		case attrName:
			a.Name = string(f.bytes)
		case attrStrings:
			strings = append(strings, string(f.bytes))
		case attrInts:
			if ints, err = f.appendVarints(ints); err != nil {
				return a, err
			}
		}
	}
	switch {
	case len(ints) > 0:
		a.Value = ints
	case len(strings) > 0:
		a.Value = strings
	}
	return a, nil
}

func readInitializerName(f field) (string, error) {
	name := ""
	for in, err := range fields(f.bytes) {
		switch {
		case err != nil:
			return "", err
		case f.num == graphSparse && in.num == sparseValues:
			return readInitializerName(field{num: graphInitializer, bytes: in.bytes})
		case f.num == graphInitializer && in.num == tensorName:
			name = string(in.bytes)
		}
	}
	return name, nil
}

func readValue(b []byte) (v Value, err error) {
	for f, err := range fields(b) {
		if err != nil {
			return v, err
		}
		switch f.num {
		case valueName:
			v.Name = string(f.bytes)
		case valueType:
			if v.Type, err = readType(f.bytes, 0); err != nil {
				return v, err
			}
		}
	}
	return v, nil
}

func readType(b []byte, depth int) (t Type, err error) {
	for f, err := range fields(b) {
		if err != nil {
			return t, err
		}
		switch {
		case f.num == typeTensor:
			t, err = readTensorType(f.bytes)
		case f.num == typeSequence && depth == 0:
			t, err = readSequenceType(f.bytes)
		case f.num == typeMap && depth == 1:
			// Kept for the sequence around it: a map alone has no use.
			t = Type{Kind: SequenceOfMaps}
		}
		if err != nil {
			return t, err
		}
	}
	return t, nil
}

func readSequenceType(b []byte) (t Type, err error) {
	for f, err := range fields(b) {
		if err != nil {
			return t, err
		}
		if f.num != sequenceTypeElem {
			continue
		}
		if t, err = readType(f.bytes, 1); err != nil {
			return t, err
		}
		if t.Kind == Tensor {
			t.Kind = SequenceOfTensors
		}
	}
	return t, nil
}

func readTensorType(b []byte) (Type, error) {
	t := Type{Kind: Tensor}
	for f, err := range fields(b) {
		if err != nil {
			return t, err
		}
		switch f.num {
		case tensorTypeElem:
			if f.varint > math.MaxInt32 {
				return t, fmt.Errorf("%w: element type %d", errWire, f.varint)
			}
			t.Elem = Elem(f.varint)
		case tensorTypeShape:
			t.Ranked = true
			for d, err := range fields(f.bytes) {
				if err != nil {
					return t, err
				}
				if d.num != shapeDim {
					continue
				}
				n, err := readDim(d.bytes)
				if err != nil {
					return t, err
				}
				t.Shape = append(t.Shape, n)
			}
		}
	}
	return t, nil
}

func readDim(b []byte) (int64, error) {
	n := int64(-1)
	for f, err := range fields(b) {
		if err != nil {
			return 0, err
		}
		// What is above MaxInt64 on the wire is a negative number.
		if f.num == dimValue && f.varint <= math.MaxInt64 {
			n = int64(f.varint)
		}
	}
	return n, nil
}

// field is one field of a message: a varint or, for a length-delimited one, its
// bytes. Those of other wire types carry nothing that is read here.
type field struct {
	num    int32
	varint uint64
	bytes  []byte
	packed bool
}

// appendVarints appends one number, or many if the field is packed.
func (f field) appendVarints(to []int64) ([]int64, error) {
	if !f.packed {
		return append(to, int64(f.varint)), nil //nolint:gosec // two's complement is what the wire has
	}
	for b := f.bytes; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return nil, errWire
		}
		to, b = append(to, int64(v)), b[n:] //nolint:gosec // as above
	}
	return to, nil
}

// fields yields the fields of a message, and errWire last if it is malformed.
func fields(b []byte) iter.Seq2[field, error] {
	return func(yield func(field, error) bool) {
		for len(b) > 0 {
			num, typ, n := protowire.ConsumeTag(b)
			if n < 0 {
				yield(field{}, errWire)
				return
			}
			f, b2 := field{num: int32(num), packed: typ == protowire.BytesType}, b[n:]
			switch typ {
			case protowire.VarintType:
				f.varint, n = protowire.ConsumeVarint(b2)
			case protowire.BytesType:
				f.bytes, n = protowire.ConsumeBytes(b2)
			default:
				n = protowire.ConsumeFieldValue(num, typ, b2)
			}
			if n < 0 {
				yield(field{}, errWire)
				return
			}
			if !yield(f, nil) {
				return
			}
			b = b2[n:]
		}
	}
}
