package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
)

// plan tells how a model's signature is had from its session.
type plan struct {
	signature model.Signature
	// fetches are the values that each run asks the session for: tensors of
	// rank 1 or more, of a type that onnxruntime_go can read.
	fetches []string
	// outputs has the source of each of the signature's outputs.
	outputs []output
	// fits tells whether runs can be bound.
	fits bool
}

// output is where one output comes from.
type output struct {
	// values is the index in fetches of the elements.
	values int
	// shape is the index in fetches of the shape if the elements were flattened;
	// else -1.
	shape int
	// constant, if it is not nil, is the output.
	constant *model.Tensor
}

func (p *plan) feeds() []string {
	names := make([]string, len(p.signature.Inputs))
	for i, in := range p.signature.Inputs {
		names[i] = in.Name
	}
	return names
}

// adapt reads a model's signature and returns the model with nodes added for the
// outputs that could not be read, or only slowly, as they are:
//
//   - A sequence of maps costs a dozen calls into native code a row. What went
//     into the ZipMap node that made it is fetched instead.
//   - A sequence of tensors goes through ConcatFromSequence.
//   - FLOAT16 and BFLOAT16, of which onnxruntime_go copies half the bytes, go
//     through FLOAT32, which has all their values.
//   - Scalars, which onnxruntime_go cannot read, and what may be one because its
//     rank is not declared, are flattened, and their shape is fetched too.
func adapt(artifact []byte) (plan, []byte, error) {
	g, err := graph.Parse(artifact)
	if err != nil {
		return plan{}, nil, err
	}
	a := adapter{graph: g}
	var faults []error
	for _, in := range g.Inputs {
		faults = append(faults, a.input(in))
	}
	for _, out := range g.Outputs {
		if err := a.output(out); err != nil {
			faults = append(faults, fmt.Errorf("output %q: %w", out.Name, err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return plan{}, nil, err
	}
	if len(a.plan.signature.Inputs) == 0 || len(a.plan.signature.Outputs) == 0 {
		return plan{}, nil, errors.New("the model has no inputs or no outputs")
	}
	a.plan.fits = a.plan.fitting(g)
	if len(a.added.Outputs) > 0 {
		artifact = a.added.Append(slices.Clip(artifact))
	}
	return a.plan, artifact, nil
}

type adapter struct {
	graph *graph.Graph
	added graph.Graph
	plan  plan
}

func (a *adapter) input(in graph.Value) error {
	if slices.ContainsFunc(a.graph.Initializers, func(c graph.Initializer) bool { return c.Name == in.Name }) {
		return nil // a constant, which old models list among the inputs
	}
	dtype, ok := dtypes[in.Type.Elem]
	switch {
	case in.Type.Kind != graph.Tensor || !ok:
		return fmt.Errorf("input %q: a %s cannot be sent", in.Name, in.Type)
	case !in.Type.Ranked:
		return fmt.Errorf("input %q: its shape is not declared", in.Name)
	case len(in.Type.Shape) == 0 && (in.Type.Elem == graph.String || narrow(in.Type.Elem)):
		return fmt.Errorf("input %q: a scalar %s cannot be sent", in.Name, dtype)
	}
	a.plan.signature.Inputs = append(a.plan.signature.Inputs,
		model.TensorSpec{Name: in.Name, DType: dtype, Shape: in.Type.Shape})
	return nil
}

func (a *adapter) output(out graph.Value) error {
	name, t := out.Name, out.Type
	var labels *model.Tensor
	switch t.Kind {
	case graph.Tensor, graph.Other:
	case graph.SequenceOfTensors:
		name = a.node("ConcatFromSequence", []string{name},
			graph.Attribute{Name: "axis", Value: int64(0)}, graph.Attribute{Name: "new_axis", Value: int64(1)})
		t.Kind = graph.Tensor
		if t.Ranked {
			t.Shape = append([]int64{-1}, t.Shape...)
		}
	case graph.SequenceOfMaps:
		var err error
		if name, labels, err = a.zipMap(name); err != nil {
			return err
		}
		t = graph.Type{Kind: graph.Tensor, Elem: graph.Float, Ranked: true, Shape: []int64{-1, labels.Rows()}}
	}
	dtype, ok := dtypes[t.Elem]
	if t.Kind != graph.Tensor || !ok {
		return fmt.Errorf("a %s cannot be answered", t)
	}
	if narrow(t.Elem) {
		name = a.node("Cast", []string{name}, graph.Attribute{Name: "to", Value: int64(graph.Float)})
	}
	source := output{shape: -1}
	if len(t.Shape) == 0 {
		source.shape = a.fetch(a.node("Shape", []string{name}))
		name = a.node("Reshape", []string{name, a.flat()})
	}
	source.values = a.fetch(name)
	if err := a.answer(out.Name, dtype, t.Shape, source); err != nil || labels == nil {
		return err
	}
	return a.answer(out.Name+".labels", labels.DType, labels.Shape, output{constant: labels})
}

// zipMap returns the value that went into the ZipMap node that made the value
// named, and the node's classes in the order of the value's columns.
func (a *adapter) zipMap(name string) (string, *model.Tensor, error) {
	i := slices.IndexFunc(a.graph.Nodes, func(n graph.Node) bool { return slices.Contains(n.Outputs, name) })
	if i < 0 {
		return "", nil, errors.New("no node makes it")
	}
	node := a.graph.Nodes[i]
	if node.Op != "ZipMap" || node.Domain != "ai.onnx.ml" || len(node.Inputs) != 1 {
		return "", nil, errors.New("a sequence of maps that no ZipMap node made cannot be answered")
	}
	for _, attribute := range node.Attributes {
		switch labels := attribute.Value.(type) {
		case []string:
			return node.Inputs[0], &model.Tensor{DType: model.String, Shape: []int64{int64(len(labels))}, Strings: labels}, nil
		case []int64:
			t := &model.Tensor{DType: model.Int64, Shape: []int64{int64(len(labels))}}
			for _, label := range labels {
				t.Data = binary.LittleEndian.AppendUint64(t.Data, uint64(label)) //nolint:gosec // two's complement
			}
			return node.Inputs[0], t, nil
		}
	}
	return "", nil, errors.New("its ZipMap node names no classes")
}

func (a *adapter) answer(name string, dtype model.DType, shape []int64, source output) error {
	outputs := &a.plan.signature.Outputs
	if slices.ContainsFunc(*outputs, func(o model.TensorSpec) bool { return o.Name == name }) {
		return fmt.Errorf("another output is called %q", name)
	}
	*outputs = append(*outputs, model.TensorSpec{Name: name, DType: dtype, Shape: shape, Constant: source.constant != nil})
	a.plan.outputs = append(a.plan.outputs, source)
	return nil
}

// fetch has each run ask for a value and returns its index in the fetches. A
// value asked for twice is there twice, so that no two outputs share memory.
func (a *adapter) fetch(name string) int {
	named := func(v graph.Value) bool { return v.Name == name }
	if !slices.ContainsFunc(a.graph.Outputs, named) && !slices.ContainsFunc(a.added.Outputs, named) {
		a.added.Outputs = append(a.added.Outputs, graph.Value{Name: name})
	}
	a.plan.fetches = append(a.plan.fetches, name)
	return len(a.plan.fetches) - 1
}

// node adds a node with one output, whose name it returns.
func (a *adapter) node(op string, inputs []string, attributes ...graph.Attribute) string {
	name := "sallyport." + op + "." + inputs[0]
	a.added.Nodes = append(a.added.Nodes,
		graph.Node{Op: op, Inputs: inputs, Outputs: []string{name}, Attributes: attributes})
	return name
}

// flat is the name of a constant: the shape [-1], one dimension of any length.
func (a *adapter) flat() string {
	const name = "sallyport.flat"
	if len(a.added.Initializers) == 0 {
		a.added.Initializers = []graph.Initializer{{
			Name: name, Elem: graph.Int64, Shape: []int64{1},
			Raw: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		}}
	}
	return name
}
