// Package graph reads and writes the parts of an ONNX model that tell what goes
// into it and comes out of it. It follows onnx.proto of the ONNX project, whose
// field numbers never change.
package graph

import "fmt"

// Graph is a model's graph.
type Graph struct {
	Nodes        []Node
	Initializers []Initializer
	Inputs       []Value
	Outputs      []Value
}

// Node is one operation.
type Node struct {
	Op string
	// Domain is the operator set that Op is from; empty for ONNX's own.
	Domain     string
	Inputs     []string
	Outputs    []string
	Attributes []Attribute
}

// Attribute is a named constant of a node. Value is an int64, string, []int64,
// []float32, []string or *Graph; Parse leaves it nil for anything but the two
// kinds of list that hold class labels: []int64 and []string.
type Attribute struct {
	Name  string
	Value any
}

// Initializer is a named constant of a graph. Parse gives its name only.
type Initializer struct {
	Name  string
	Elem  Elem
	Shape []int64
	// Raw holds the elements, little-endian.
	Raw []byte
}

// Value is an input or output of a graph.
type Value struct {
	Name string
	Type Type
}

// Kind tells tensors from the values that hold tensors.
type Kind uint8

// The kinds of value that have a use in a signature; Other is all the rest.
const (
	Other Kind = iota
	Tensor
	SequenceOfTensors
	SequenceOfMaps
)

// Type is the type of a value.
type Type struct {
	Kind Kind
	// Elem is the type of the elements of a tensor or of a sequence's tensors.
	// Of maps, which are to FLOAT, it is the type of the keys; Parse leaves that
	// out.
	Elem Elem
	// Ranked tells whether Shape is known. It has -1 where any length fits.
	Ranked bool
	Shape  []int64
}

// Elem is the type of a tensor's elements, numbered as in onnx.proto and in
// ONNX Runtime's C API.
type Elem int32

// The element types of tensors.
const (
	Float    Elem = 1
	Uint8    Elem = 2
	Int8     Elem = 3
	Uint16   Elem = 4
	Int16    Elem = 5
	Int32    Elem = 6
	Int64    Elem = 7
	String   Elem = 8
	Bool     Elem = 9
	Float16  Elem = 10
	Double   Elem = 11
	Uint32   Elem = 12
	Uint64   Elem = 13
	BFloat16 Elem = 16
)

var elemNames = [...]string{
	"UNDEFINED", "FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "STRING", "BOOL", "FLOAT16",
	"DOUBLE", "UINT32", "UINT64", "COMPLEX64", "COMPLEX128", "BFLOAT16",
}

// String is the type's name in onnx.proto.
func (e Elem) String() string {
	if e < 0 || int(e) >= len(elemNames) {
		return fmt.Sprintf("type %d", int32(e))
	}
	return elemNames[e]
}

// String names the type as people write it: "sequence of FLOAT tensors".
func (t Type) String() string {
	switch t.Kind {
	case Tensor:
		return t.Elem.String() + " tensor"
	case SequenceOfTensors:
		return "sequence of " + t.Elem.String() + " tensors"
	case SequenceOfMaps:
		return "sequence of maps"
	case Other:
	}
	return "value that is neither tensor nor sequence of tensors"
}
