package onnxtest

import (
	"os"
	"testing"

	"github.com/sallyport/sallyport/server/onnx/graph"
)

// Countdown is a model that runs for as many rounds as its input n says, a fraction of
// a microsecond each: how long a run takes has nothing to do with how much its call has
// to carry and to check.
func Countdown() graph.Graph {
	number := func(elem graph.Elem, shape ...int64) graph.Type {
		return graph.Type{Kind: graph.Tensor, Elem: elem, Ranked: true, Shape: shape}
	}
	body := &graph.Graph{
		Nodes: []graph.Node{
			{Op: "Identity", Inputs: []string{"on"}, Outputs: []string{"still"}},
			{Op: "Add", Inputs: []string{"before", "before"}, Outputs: []string{"after"}},
		},
		Inputs: []graph.Value{
			{Name: "round", Type: number(graph.Int64)}, {Name: "on", Type: number(graph.Bool)}, {Name: "before", Type: number(graph.Float, -1)},
		},
		Outputs: []graph.Value{{Name: "still", Type: number(graph.Bool)}, {Name: "after", Type: number(graph.Float, -1)}},
	}
	return graph.Graph{
		Nodes: []graph.Node{{
			Op: "Loop", Inputs: []string{"n", "true", "x"}, Outputs: []string{"y"},
			Attributes: []graph.Attribute{{Name: "body", Value: body}},
		}},
		Initializers: []graph.Initializer{{Name: "true", Elem: graph.Bool, Raw: []byte{1}}},
		Inputs:       []graph.Value{{Name: "n", Type: number(graph.Int64)}, {Name: "x", Type: number(graph.Float, -1)}},
		Outputs:      []graph.Value{{Name: "y", Type: number(graph.Float, -1)}},
	}
}

// Spinning is a directory with one model, "spinning", which is Countdown.
func Spinning(tb testing.TB) (dir string) {
	tb.Helper()
	dir = tb.TempDir()
	if err := os.MkdirAll(dir+"/spinning/1", 0o700); err != nil {
		tb.Fatal(err)
	}
	g := Countdown()
	if err := os.WriteFile(dir+"/spinning/1/model.onnx", g.Model(17), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(dir+"/spinning/model.yaml", []byte("max_rows: 1000000\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return dir
}
