package model_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/server/model"
	onnxgraph "github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// serve serves a graph as the model m for the test's time.
func serve(t *testing.T, g onnxgraph.Graph, manifest string) *model.Repository {
	t.Helper()
	d := newDir(t)
	d.put("m/1/model.onnx", g.Model(17))
	d.put("m/model.yaml", []byte(manifest))
	r, err := model.Open(t.Context(), model.Config{Directory: d.path}, onnxtest.Open(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Requests are merged by rows, so every input and output must have them.
func TestBatchingNeedsRows(t *testing.T) {
	float := func(shape ...int64) onnxgraph.Type {
		return onnxgraph.Type{Kind: onnxgraph.Tensor, Elem: onnxgraph.Float, Ranked: true, Shape: shape}
	}
	for name, test := range map[string]struct {
		x, z, y  onnxgraph.Type
		manifest string
		want     []string // nil: it is served
	}{
		"rows everywhere":     {float(-1, 2), float(-1, 2), float(-1, 2), "batching: {max_rows: 4096}", nil},
		"an input without":    {float(-1, 2), float(1, 2), float(-1, 2), "batching: {max_rows: 8}", []string{`batching: input "z" has no row dimension, its shape is [1, 2]`}},
		"all without":         {float(2), float(2), float(2), "batching: {max_rows: 8}", []string{`input "x"`, `input "z"`, `output "y"`}},
		"more than a request": {float(-1, 2), float(-1, 2), float(-1, 2), "max_rows: 10\nbatching: {max_rows: 11}", []string{"batching.max_rows: 11 is more than max_rows, 10"}},
		"a row is no batch":   {float(-1, 2), float(-1, 2), float(-1, 2), "batching: {max_rows: 1}", []string{"batching.max_rows"}},
		"no rows":             {float(-1, 2), float(-1, 2), float(-1, 2), "batching: {}", []string{"batching.max_rows"}},
		"too long a delay":    {float(-1, 2), float(-1, 2), float(-1, 2), "batching: {max_rows: 8, max_delay: 2s}", []string{"batching.max_delay"}},
		"not asked for":       {float(2), float(2), float(2), "{}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := onnxgraph.Graph{
				Nodes:   []onnxgraph.Node{{Op: "Add", Inputs: []string{"x", "z"}, Outputs: []string{"y"}}},
				Inputs:  []onnxgraph.Value{{Name: "x", Type: test.x}, {Name: "z", Type: test.z}},
				Outputs: []onnxgraph.Value{{Name: "y", Type: test.y}},
			}
			r := serve(t, g, test.manifest)
			var failures []string
			for path, err := range r.Failures() {
				failures = append(failures, path+": "+err.Error())
			}
			all := strings.Join(failures, "\n")
			if (test.want == nil) != (all == "") {
				t.Errorf("failures: %s", all)
			}
			for _, want := range test.want {
				if !strings.Contains(all, want) {
					t.Errorf("failures do not say %q:\n%s", want, all)
				}
			}
		})
	}
}

// What is the same for every run needs no rows, and outputs that are kept back none.
func TestBatchingOfAClassifier(t *testing.T) {
	contract := "batching: {max_rows: 64, max_delay: 0.002s}"
	g := onnxgraph.Graph{
		Nodes: []onnxgraph.Node{
			{Op: "LinearClassifier", Domain: "ai.onnx.ml", Inputs: []string{"x"}, Outputs: []string{"label", "scores"}, Attributes: []onnxgraph.Attribute{
				{Name: "coefficients", Value: []float32{1, 0, 0, 1}}, {Name: "intercepts", Value: []float32{0, 0}}, {Name: "classlabels_ints", Value: []int64{0, 1}},
			}},
			{Op: "ZipMap", Domain: "ai.onnx.ml", Inputs: []string{"scores"}, Outputs: []string{"probabilities"}, Attributes: []onnxgraph.Attribute{{Name: "classlabels_int64s", Value: []int64{0, 1}}}},
			{Op: "ReduceSum", Inputs: []string{"scores"}, Outputs: []string{"sum"}, Attributes: []onnxgraph.Attribute{{Name: "keepdims", Value: int64(0)}}},
		},
		Inputs: []onnxgraph.Value{{Name: "x", Type: onnxgraph.Type{Kind: onnxgraph.Tensor, Elem: onnxgraph.Float, Ranked: true, Shape: []int64{-1, 2}}}},
		Outputs: []onnxgraph.Value{
			{Name: "label", Type: onnxgraph.Type{Kind: onnxgraph.Tensor, Elem: onnxgraph.Int64, Ranked: true, Shape: []int64{-1}}},
			{Name: "probabilities", Type: onnxgraph.Type{Kind: onnxgraph.SequenceOfMaps, Elem: onnxgraph.Int64}},
			{Name: "sum", Type: onnxgraph.Type{Kind: onnxgraph.Tensor, Elem: onnxgraph.Float, Ranked: true}},
		},
	}
	for manifest, want := range map[string]*model.Batching{
		contract: nil,
		contract + "\noutputs: [label, probabilities, probabilities.labels]": {MaxRows: 64, MaxDelay: 2 * time.Millisecond},
	} {
		r := serve(t, g, manifest)
		v, err := r.Acquire("m", 0)
		if want == nil {
			if failed := r.Failures()["m/1/model.onnx"]; err == nil || failed == nil || !strings.Contains(failed.Error(), `output "sum" has no row dimension`) {
				t.Errorf("error %v, failures %v", err, r.Failures())
			}
		} else {
			if err != nil {
				t.Fatal(err, r.Failures())
			}
			if diff := cmp.Diff(want, v.Batching); diff != "" {
				t.Error(diff)
			}
			v.Release()
		}
	}
}
