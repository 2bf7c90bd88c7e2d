package batch_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
)

// matrix is a model of one product with a square matrix: a run has to go through all
// of it, however few rows it has.
func matrix(n int64) graph.Graph {
	raw := make([]byte, 0, 4*n*n)
	for i := range n * n {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(i%7)/7))
	}
	return graph.Graph{
		Nodes:        []graph.Node{{Op: "MatMul", Inputs: []string{"x", "w"}, Outputs: []string{"y"}}},
		Initializers: []graph.Initializer{{Name: "w", Elem: graph.Float, Shape: []int64{n, n}, Raw: raw}},
		Inputs:       []graph.Value{{Name: "x", Type: number(graph.Float, -1, n)}},
		Outputs:      []graph.Value{{Name: "y", Type: number(graph.Float, -1, n)}},
	}
}

// BenchmarkRun is requests of one row by so many callers at a time, each run by itself
// and merged: of the example models, of whose calls the model is the smaller part, and
// of one for which a run costs far more than a row. docs/decisions/0024 rests on it.
func BenchmarkRun(b *testing.B) {
	const wide = 2048
	for _, m := range []struct {
		name, data string
		version    int64
	}{{"breast-cancer", "breast-cancer", 1}, {"breast-cancer", "breast-cancer", 2}, {"digits", "digits", 1}, {"ticket-routing", "tickets", 1}, {"matrix", "", 1}} {
		for _, callers := range []int{1, 16, 64} {
			for _, kind := range []struct{ name, manifest string }{
				{"alone", "{}"},
				{"merged", "batching: {max_rows: 64}"},
				{"delayed", "batching: {max_rows: 64, max_delay: 0.001s}"},
			} {
				b.Run(fmt.Sprintf("%s-%d/callers=%d/%s", m.name, m.version, callers, kind.name), func(b *testing.B) {
					var dir string
					if m.data != "" {
						more := "\n" + kind.manifest
						if kind.name == "alone" {
							more = ""
						}
						dir = exampleModels(b, more)
					} else {
						dir = b.TempDir()
						write(b, dir, m.name, matrix(wide), kind.manifest)
					}
					w := open(b, dir, batch.Config{MaxDelay: time.Hour})
					v := w.version(b, m.name, m.version)
					in := &model.Tensor{DType: model.Float32, Shape: []int64{1, wide}, Data: make([]byte, 4*wide)}
					if m.data != "" {
						in = tensorOf(b, v.Signature.Inputs[0].DType, holdout(b, m.data)[:1])
					}
					calls := make(chan struct{})
					done := make(chan error)
					b.ReportAllocs()
					b.ResetTimer()
					for i := range callers {
						r := ask(v, fmt.Sprint(i), in)
						go func() {
							var err error
							for range calls {
								if _, _, failed := w.Run(b.Context(), r); failed != nil {
									err = failed
								}
							}
							done <- err
						}()
					}
					for range b.N {
						calls <- struct{}{}
					}
					close(calls)
					for range callers {
						if err := <-done; err != nil {
							b.Error(err)
						}
					}
					b.StopTimer()
					if runs, requests := w.mergedRuns(); runs > 0 {
						b.ReportMetric(float64(requests)/float64(runs), "requests/run")
					}
				})
			}
		}
	}
}
