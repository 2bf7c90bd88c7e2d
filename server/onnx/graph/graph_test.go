package graph_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/server/onnx/graph"
)

func whole() graph.Graph {
	return graph.Graph{
		Nodes: []graph.Node{
			{Op: "Add", Inputs: []string{"x", "one"}, Outputs: []string{"sum"}},
			{
				Op: "ZipMap", Domain: "ai.onnx.ml", Inputs: []string{"sum"}, Outputs: []string{"z"},
				Attributes: []graph.Attribute{
					{Name: "classlabels_int64s", Value: []int64{-1, 0, 1 << 40}},
					{Name: "classlabels_strings", Value: []string{"", "ü"}},
				},
			},
		},
		Initializers: []graph.Initializer{{Name: "one"}},
		Inputs: []graph.Value{
			{Name: "x", Type: graph.Type{Kind: graph.Tensor, Elem: graph.Float, Ranked: true, Shape: []int64{-1, 3, 0}}},
			{Name: "scalar", Type: graph.Type{Kind: graph.Tensor, Elem: graph.BFloat16, Ranked: true}},
			{Name: "unranked", Type: graph.Type{Kind: graph.Tensor, Elem: graph.String}},
			{Name: "untyped"},
		},
		Outputs: []graph.Value{
			{Name: "z", Type: graph.Type{Kind: graph.SequenceOfMaps}},
			{Name: "s", Type: graph.Type{Kind: graph.SequenceOfTensors, Elem: graph.Bool, Ranked: true, Shape: []int64{-1}}},
		},
	}
}

func TestParseReadsWhatIsWritten(t *testing.T) {
	want := whole()
	got, err := graph.Parse(want.Model(17))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAppendAdds(t *testing.T) {
	first := whole()
	second := graph.Graph{
		Nodes:   []graph.Node{{Op: "Identity", Inputs: []string{"sum"}, Outputs: []string{"y"}}},
		Outputs: []graph.Value{{Name: "y"}},
	}
	got, err := graph.Parse(second.Append(first.Model(17)))
	if err != nil {
		t.Fatal(err)
	}
	want := first
	want.Nodes = append(want.Nodes, second.Nodes...)
	want.Outputs = append(want.Outputs, second.Outputs...)
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefusesWhatIsCutOff(t *testing.T) {
	g := whole()
	b := g.Model(17)
	// The first bytes are a message of their own: a model without a graph.
	for n := range b {
		if got, err := graph.Parse(b[:n]); err == nil && len(got.Outputs) == len(g.Outputs) {
			t.Fatalf("%d of %d bytes are accepted as the whole", n, len(b))
		}
	}
}

func FuzzParse(f *testing.F) {
	g := whole()
	f.Add(g.Model(17))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := graph.Parse(b)
		if (got == nil) == (err == nil) {
			t.Errorf("got %v and %v", got, err)
		}
	})
}
