package onnx_test

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

func TestClassifier(t *testing.T) {
	rt := onnxtest.Open(t)
	x := tensors{"x": floats([]int64{2, 2}, 3, 4, 6, 5)}
	for name, test := range map[string]struct {
		labels any
		dtype  model.DType
		want   tensors
	}{
		// Columns stay in the graph's order, whatever the labels.
		"numbers": {[]int64{9, -5}, model.Int64, tensors{
			"label": ints([]int64{2}, -5, 9), "probabilities": floats([]int64{2, 2}, 3, 4, 6, 5),
			"probabilities.labels": ints([]int64{2}, 9, -5),
		}},
		"words": {[]string{"no", "ja"}, model.String, tensors{
			"label": words([]int64{2}, "ja", "no"), "probabilities": floats([]int64{2, 2}, 3, 4, 6, 5),
			"probabilities.labels": words([]int64{2}, "no", "ja"),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := load(t, rt, classifier([]float32{1, 0, 0, 1}, test.labels))
			outputs := []model.TensorSpec{
				{Name: "label", DType: test.dtype, Shape: []int64{-1}},
				{Name: "probabilities", DType: model.Float32, Shape: []int64{-1, 2}},
				{Name: "probabilities.labels", DType: test.dtype, Shape: []int64{2}, Constant: true},
			}
			if diff := cmp.Diff(outputs, m.Signature().Outputs); diff != "" {
				t.Error(diff)
			}
			got, err := m.Run(t.Context(), x, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSequenceOfTensors(t *testing.T) {
	rt := onnxtest.Open(t)
	for elem, dtype := range allTypes {
		if dtype == model.BFloat16 {
			continue // no operator of ONNX makes a sequence of them
		}
		t.Run(dtype.String(), func(t *testing.T) {
			in := tensorOf(elem, -1)
			m := load(t, rt, one("SequenceConstruct", graph.Type{Kind: graph.SequenceOfTensors, Elem: elem, Ranked: true, Shape: []int64{-1}},
				value("a", in), value("b", in)))
			spec := model.TensorSpec{Name: "y", DType: dtype, Shape: []int64{-1, -1}}
			if diff := cmp.Diff([]model.TensorSpec{spec}, m.Signature().Outputs); diff != "" {
				t.Error(diff)
			}
			both := sample(dtype, 2, 4)
			a, b := *both, *both
			a.Shape, b.Shape = []int64{4}, []int64{4}
			half := 4 * dtype.Size()
			a.Data, b.Data = both.Data[:half], both.Data[half:]
			if dtype == model.String {
				a.Strings, b.Strings = both.Strings[:4], both.Strings[4:]
			}
			got, err := m.Run(t.Context(), tensors{"a": &a, "b": &b}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(both, got["y"], cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			c := sample(dtype, 3)
			if _, err := m.Run(t.Context(), tensors{"a": &a, "b": c}, nil); !errors.Is(err, model.ErrInvalidInput) {
				t.Errorf("tensors of two lengths: got %v, want %v", err, model.ErrInvalidInput)
			}
		})
	}
}

func TestShapeThatIsNotDeclared(t *testing.T) {
	unranked := graph.Type{Kind: graph.Tensor, Elem: graph.String}
	m := load(t, onnxtest.Open(t), one("Identity", unranked, value("x", tensorOf(graph.String, -1, 2))))
	x := sample(model.String, 3, 2)
	got, err := m.Run(t.Context(), tensors{"x": x}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(x, got["y"]); diff != "" {
		t.Error(diff)
	}
}

func TestConstantAmongInputs(t *testing.T) {
	vector := tensorOf(graph.Float, 1)
	g := one("Add", vector, value("x", vector), value("one", vector))
	g.Initializers = []graph.Initializer{{Name: "one", Elem: graph.Float, Shape: []int64{1}, Raw: floats(nil, 1).Data}}
	m := load(t, onnxtest.Open(t), g)
	if n := len(m.Signature().Inputs); n != 1 {
		t.Errorf("%d inputs, want x alone", n)
	}
	got, err := m.Run(t.Context(), tensors{"x": floats([]int64{1}, 2)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(floats([]int64{1}, 3), got["y"]); diff != "" {
		t.Error(diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	const complex64Elem = 14
	float := tensorOf(graph.Float, -1)
	labelled := classifier([]float32{1, 0, 0, 1}, []int64{0, 1})
	labelled.Outputs[0].Name, labelled.Nodes[0].Outputs[0] = "probabilities.labels", "probabilities.labels"
	mapped := classifier([]float32{1, 0, 0, 1}, []int64{0, 1})
	mapped.Nodes = mapped.Nodes[:1]
	renamed := classifier([]float32{1, 0, 0, 1}, []int64{0, 1})
	renamed.Nodes[1].Domain = "elsewhere"
	unlabelled := classifier([]float32{1, 0, 0, 1}, []int64{0, 1})
	unlabelled.Nodes[1].Attributes = nil
	for name, test := range map[string]struct {
		model []byte
		want  string
	}{
		"nothing":             {nil, "not an ONNX model"},
		"text":                {[]byte("model"), "not an ONNX model"},
		"cut off":             {serialized(one("Identity", float, value("x", float)))[:60], "not an ONNX model"},
		"no outputs":          {serialized(graph.Graph{Inputs: []graph.Value{value("x", float)}}), "no inputs or no outputs"},
		"no inputs":           {serialized(graph.Graph{Outputs: []graph.Value{value("y", float)}}), "no inputs or no outputs"},
		"complex input":       {serialized(one("Identity", float, value("x", tensorOf(complex64Elem, -1)))), `input "x": a COMPLEX64 tensor cannot be sent`},
		"complex output":      {serialized(one("Identity", tensorOf(complex64Elem, -1), value("x", float))), `output "y": a COMPLEX64 tensor cannot be answered`},
		"sequence input":      {serialized(one("Identity", float, value("x", graph.Type{Kind: graph.SequenceOfTensors, Elem: graph.Float}))), `input "x": a sequence of FLOAT tensors cannot be sent`},
		"type not declared":   {serialized(one("Identity", graph.Type{}, value("x", float))), `output "y": a value that is neither tensor nor sequence of tensors cannot be answered`},
		"shape not declared":  {serialized(one("Identity", float, value("x", graph.Type{Kind: graph.Tensor, Elem: graph.Float}))), `input "x": its shape is not declared`},
		"scalar string":       {serialized(one("Identity", tensorOf(graph.String), value("x", tensorOf(graph.String)))), `input "x": a scalar STRING cannot be sent`},
		"labels twice":        {serialized(labelled), `another output is called "probabilities.labels"`},
		"maps of no node":     {serialized(mapped), `output "probabilities": no node makes it`},
		"maps of other node":  {serialized(renamed), `that no ZipMap node made`},
		"maps without labels": {serialized(unlabelled), `its ZipMap node names no classes`},
		"unknown operator":    {serialized(one("Nonesuch", float, value("x", float))), "Nonesuch"},
		"wrong operand":       {serialized(one("Not", float, value("x", float))), "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := onnxtest.Open(t).Load(test.model)
			if err == nil {
				_ = m.Close()
				t.Fatal("loaded")
			}
			if text := err.Error(); !strings.HasPrefix(text, "load model: ") || !strings.Contains(text, test.want) {
				t.Errorf("got %q, want %q in it", text, test.want)
			}
		})
	}
}

func serialized(g graph.Graph) []byte { return g.Model(opset) }

// TestNoOtherFileIsRead has weights in a file that is there, and would do.
func TestNoOtherFileIsRead(t *testing.T) {
	rt := onnxtest.Open(t)
	dir := t.TempDir()
	t.Chdir(dir)
	weights := filepath.Join(dir, "weights")
	if err := os.WriteFile(weights, make([]byte, 4*externalLength), 0o600); err != nil {
		t.Fatal(err)
	}
	vector := tensorOf(graph.Float, externalLength)
	g := one("Max", vector, value("x", vector), value("w", vector)) // no optimisation looks into it
	g.Inputs = g.Inputs[:1]
	for _, location := range []string{"weights", "../" + filepath.Base(dir) + "/weights", weights} {
		for name, constant := range map[string][]byte{"initializer": externalInitializer(location), "node": externalNode(location)} {
			m, err := rt.Load(append(g.Model(opset), constant...))
			if err == nil {
				_ = m.Close()
				t.Errorf("%s of a constant %s was read", location, name)
			} else if !strings.Contains(err.Error(), "xternal data path") {
				t.Errorf("%s of a constant %s: %v", location, name, err)
			}
		}
	}
}

const externalLength = 1000

// externalInitializer and externalNode are pieces of a model that say that the
// floats of the value w are in another file.
func externalInitializer(location string) []byte {
	return message(nil, 7, message(nil, 5, externalTensor(location)))
}

func externalNode(location string) []byte {
	attribute := message(message(nil, 1, []byte("value")), 5, externalTensor(location))
	node := message(message(nil, 2, []byte("w")), 4, []byte("Constant"))
	return message(nil, 7, message(nil, 1, message(node, 5, number(attribute, 20, 4))))
}

func externalTensor(location string) []byte {
	const dims, dtype, name, external, where = 1, 2, 8, 13, 14
	t := message(number(number(nil, dims, externalLength), dtype, uint64(graph.Float)), name, []byte("w"))
	t = message(t, external, message(message(nil, 1, []byte("location")), 2, []byte(location)))
	return number(t, where, 1)
}

func message(b []byte, n protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), m)
}

func number(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func TestNarrowFloats(t *testing.T) {
	for _, dtype := range []model.DType{model.Float16, model.BFloat16} {
		t.Run(dtype.String(), func(t *testing.T) {
			// Every value, in ascending order, as a float64.
			var finite []float64
			for bits := range uint16(0x8000) {
				v := widen(dtype, bits)
				if math.IsNaN(v) || math.IsInf(v, 0) {
					break
				}
				finite = append(finite, v)
			}
			check := func(v float32, want uint16) {
				t.Helper()
				for _, sign := range []uint16{0, 0x8000} {
					x := floats([]int64{1}, math.Float32frombits(math.Float32bits(v)|uint32(sign)<<16))
					onnx.NarrowTo(dtype, x)
					if got := binary.LittleEndian.Uint16(x.Data); got != want|sign {
						t.Fatalf("%g became %#x, want %#x", v, got, want|sign)
					}
				}
			}
			for i := range len(finite) - 1 {
				low, high := finite[i], finite[i+1]
				even := uint16(i + i%2)
				middle := float32((low + high) / 2)
				if float64(middle) != (low+high)/2 {
					continue // between subnormal float32 there is no middle
				}
				check(float32(low), uint16(i))
				check(middle, even)
				check(math.Nextafter32(middle, float32(low)), uint16(i))
				check(math.Nextafter32(middle, float32(high)), uint16(i+1))
			}
			infinity := uint16(len(finite))
			check(float32(math.Inf(1)), infinity)
			check(math.MaxFloat32, infinity)
			for _, bits := range []uint32{0x7f800001, 0x7fc00000, 0x7fffffff, 0xff800001} {
				x := floats([]int64{1}, math.Float32frombits(bits))
				onnx.NarrowTo(dtype, x)
				if got := binary.LittleEndian.Uint16(x.Data); !math.IsNaN(widen(dtype, got)) {
					t.Errorf("NaN %#x became %#x", bits, got)
				}
			}
		})
	}
}

func widen(dtype model.DType, bits uint16) float64 {
	if dtype == model.BFloat16 {
		return float64(math.Float32frombits(uint32(bits) << 16))
	}
	exponent, fraction := int(bits>>10)&0x1f, float64(bits&0x3ff)
	switch exponent {
	case 0:
		return math.Ldexp(fraction, -24)
	case 0x1f:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(1)
	}
	return math.Ldexp(1024+fraction, exponent-25)
}
