package graph

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Append appends g to a serialized model, whose graph then has the nodes,
// constants, inputs and outputs of both: protobuf messages merge when their
// serialized forms are put together.
func (g *Graph) Append(model []byte) []byte {
	return appendMessage(model, modelGraph, g.marshal())
}

// Model serializes g as a model that uses the given version of ONNX's own
// operators and version 3 of the operators of classical machine learning.
func (g *Graph) Model(opset int64) []byte {
	const irVersion, opsetImport, opsetDomain, opsetVersion = 1, 8, 1, 2
	model := appendVarint(nil, irVersion, 8)
	model = appendMessage(model, opsetImport, appendVarint(nil, opsetVersion, opset))
	ml := appendString(nil, opsetDomain, "ai.onnx.ml")
	model = appendMessage(model, opsetImport, appendVarint(ml, opsetVersion, 3))
	return g.Append(appendMessage(model, modelGraph, appendString(nil, graphName, "graph")))
}

func (g *Graph) marshal() []byte {
	var b []byte
	for _, n := range g.Nodes {
		b = appendMessage(b, graphNode, n.marshal())
	}
	for _, t := range g.Initializers {
		b = appendMessage(b, graphInitializer, t.marshal())
	}
	for _, v := range g.Inputs {
		b = appendMessage(b, graphInput, v.marshal())
	}
	for _, v := range g.Outputs {
		b = appendMessage(b, graphOutput, v.marshal())
	}
	return b
}

func (n *Node) marshal() []byte {
	b := appendString(nil, nodeOp, n.Op)
	b = appendString(b, nodeDomain, n.Domain)
	for _, s := range n.Inputs {
		b = appendString(b, nodeInput, s)
	}
	for _, s := range n.Outputs {
		b = appendString(b, nodeOutput, s)
	}
	for _, a := range n.Attributes {
		b = appendMessage(b, nodeAttribute, a.marshal())
	}
	return b
}

func (a *Attribute) marshal() []byte {
	b := appendString(nil, attrName, a.Name)
	switch v := a.Value.(type) {
	case int64:
		b = appendVarint(appendVarint(b, attrType, 2), attrI, v)
	case string:
		b = appendString(appendVarint(b, attrType, 3), attrS, v)
	case *Graph:
		b = appendMessage(appendVarint(b, attrType, 5), attrG, appendString(v.marshal(), graphName, "body"))
	case []float32:
		b = appendVarint(b, attrType, 6)
		for _, x := range v {
			b = protowire.AppendTag(b, attrFloats, protowire.Fixed32Type)
			b = protowire.AppendFixed32(b, math.Float32bits(x))
		}
	case []int64:
		b = appendVarint(b, attrType, 7)
		for _, x := range v {
			b = appendVarint(b, attrInts, x)
		}
	case []string:
		b = appendVarint(b, attrType, 8)
		for _, x := range v {
			b = appendString(b, attrStrings, x)
		}
	}
	return b
}

func (t *Initializer) marshal() []byte {
	b := appendString(nil, tensorName, t.Name)
	b = appendVarint(b, tensorElem, int64(t.Elem))
	for _, d := range t.Shape {
		b = appendVarint(b, tensorDims, d)
	}
	return appendMessage(b, tensorRaw, t.Raw)
}

func (v *Value) marshal() []byte {
	b := appendString(nil, valueName, v.Name)
	if t := v.Type.marshal(); t != nil {
		b = appendMessage(b, valueType, t)
	}
	return b
}

// marshal is empty for Other: ONNX Runtime infers what is not declared.
func (t *Type) marshal() []byte {
	switch t.Kind {
	case Tensor:
		return t.marshalTensor()
	case SequenceOfTensors:
		return appendMessage(nil, typeSequence, appendMessage(nil, sequenceTypeElem, t.marshalTensor()))
	case SequenceOfMaps:
		const key, value = 1, 2
		float := Type{Elem: Float}
		m := appendVarint(nil, key, int64(t.Elem))
		m = appendMessage(nil, typeMap, appendMessage(m, value, float.marshalTensor()))
		return appendMessage(nil, typeSequence, appendMessage(nil, sequenceTypeElem, m))
	case Other:
	}
	return nil
}

func (t *Type) marshalTensor() []byte {
	b := appendVarint(nil, tensorTypeElem, int64(t.Elem))
	if t.Ranked {
		var dims []byte
		for _, d := range t.Shape {
			var dim []byte
			if d >= 0 {
				dim = appendVarint(nil, dimValue, d)
			}
			dims = appendMessage(dims, shapeDim, dim)
		}
		b = appendMessage(b, tensorTypeShape, dims)
	}
	return appendMessage(nil, typeTensor, b)
}

func appendVarint(b []byte, num protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v)) //nolint:gosec // two's complement is what the wire has
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendMessage(b []byte, num protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), m)
}
