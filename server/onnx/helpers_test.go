package onnx_test

import (
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

const opset = 17

type tensors = map[string]*model.Tensor

// load loads a model for the test's time.
func load(tb testing.TB, rt *onnx.Runtime, g graph.Graph) model.Runner {
	tb.Helper()
	m, err := rt.Load(g.Model(opset))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return m
}

// open opens a runtime of the test's own.
func open(tb testing.TB, cfg onnx.Config) *onnx.Runtime {
	tb.Helper()
	cfg.Library = onnxtest.Library(tb)
	rt, err := onnx.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := rt.Close(); err != nil {
			tb.Error(err)
		}
	})
	return rt
}

// inOwnProcess runs the test again in a process where no other test runs, whose
// standard error must stay empty, and tells whether it is there.
func inOwnProcess(t *testing.T) bool {
	t.Helper()
	const marker = "SALLYPORT_TEST_ALONE"
	if os.Getenv(marker) != "" {
		return true
	}
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env, cmd.Stderr = append(os.Environ(), marker+"=1"), &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("%v: %s", err, stderr.String())
	}
	t.Logf("%s", out)
	return false
}

func tensorOf(elem graph.Elem, shape ...int64) graph.Type {
	return graph.Type{Kind: graph.Tensor, Elem: elem, Ranked: true, Shape: shape}
}

func value(name string, t graph.Type) graph.Value { return graph.Value{Name: name, Type: t} }

// one is a graph of one node from the inputs to the output y.
func one(op string, y graph.Type, inputs ...graph.Value) graph.Graph {
	node := graph.Node{Op: op, Outputs: []string{"y"}}
	for _, in := range inputs {
		node.Inputs = append(node.Inputs, in.Name)
	}
	return graph.Graph{Nodes: []graph.Node{node}, Inputs: inputs, Outputs: []graph.Value{value("y", y)}}
}

// classifier is what skl2onnx makes of a linear classifier with two features:
// labels are []int64 or []string.
func classifier(coefficients []float32, labels any) graph.Graph {
	elem, ofClassifier, ofZipMap := graph.Int64, "classlabels_ints", "classlabels_int64s"
	if _, ok := labels.([]string); ok {
		elem, ofClassifier, ofZipMap = graph.String, "classlabels_strings", "classlabels_strings"
	}
	return graph.Graph{
		Nodes: []graph.Node{{
			Op: "LinearClassifier", Domain: "ai.onnx.ml", Inputs: []string{"x"}, Outputs: []string{"label", "scores"},
			Attributes: []graph.Attribute{
				{Name: "coefficients", Value: coefficients},
				{Name: "intercepts", Value: make([]float32, len(coefficients)/2)},
				{Name: ofClassifier, Value: labels},
			},
		}, {
			Op: "ZipMap", Domain: "ai.onnx.ml", Inputs: []string{"scores"}, Outputs: []string{"probabilities"},
			Attributes: []graph.Attribute{{Name: ofZipMap, Value: labels}},
		}},
		Inputs: []graph.Value{value("x", tensorOf(graph.Float, -1, 2))},
		Outputs: []graph.Value{
			value("label", tensorOf(elem, -1)),
			value("probabilities", graph.Type{Kind: graph.SequenceOfMaps, Elem: elem}),
		},
	}
}

// rounds is an input of onnxtest.Countdown; forever is one that does not end by itself.
func rounds(n int64) tensors {
	return tensors{"n": ints(nil, n), "x": floats([]int64{1}, 1)}
}

const forever = math.MaxInt64

func floats(shape []int64, elements ...float32) *model.Tensor {
	t := &model.Tensor{DType: model.Float32, Shape: shape}
	for _, x := range elements {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(x))
	}
	return t
}

func ints(shape []int64, elements ...int64) *model.Tensor {
	t := &model.Tensor{DType: model.Int64, Shape: shape}
	for _, x := range elements {
		t.Data = binary.LittleEndian.AppendUint64(t.Data, uint64(x))
	}
	return t
}

func words(shape []int64, elements ...string) *model.Tensor {
	return &model.Tensor{DType: model.String, Shape: shape, Strings: elements}
}
