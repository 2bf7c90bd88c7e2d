package target

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/onnx/graph"
)

// Recurrent is a model that works for some 15 milliseconds on a row of 256 bytes. A
// call and its refusal cost a quarter of one, on both sides together: of a model
// that works for 2, five times of what the server can do would keep client and
// refusals busier than the model, on processors that all of them share.
const Recurrent = "bench-recurrent"

const recurrentInputs = 64

// AddRecurrent adds the model to the site: a recurrent cell of 512 units, unrolled
// 512 times, with weights that are the same each time. Servers are started
// afterwards.
func (s *Site) AddRecurrent() error {
	const units, steps = 512, 512
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // weights, not secrets
	g := graph.Graph{
		Initializers: []graph.Initializer{
			weights(random, "in", recurrentInputs, units),
			weights(random, "state", units, units),
			weights(random, "out", units, 1),
		},
		Inputs:  []graph.Value{floats("features", -1, recurrentInputs)},
		Outputs: []graph.Value{floats("score", -1, 1)},
	}
	state := "features"
	layer := func(w, op, to string) {
		g.Nodes = append(g.Nodes,
			graph.Node{Op: "MatMul", Inputs: []string{state, w}, Outputs: []string{to + "_sum"}},
			graph.Node{Op: op, Inputs: []string{to + "_sum"}, Outputs: []string{to}})
		state = to
	}
	layer("in", "Tanh", "state_0")
	for i := range steps {
		layer("state", "Tanh", "state_"+strconv.Itoa(i+1))
	}
	layer("out", "Sigmoid", "score")
	dir := filepath.Join(s.Models, Recurrent, "1")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	const opset = 17
	return os.WriteFile(filepath.Join(dir, "model.onnx"), g.Model(opset), 0o600)
}

// RecurrentRequest is a row for it.
func RecurrentRequest() (*Request, error) {
	t := &inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{1, recurrentInputs}}
	for i := range recurrentInputs {
		t.Raw = binary.LittleEndian.AppendUint32(t.Raw, math.Float32bits(float32(i)/recurrentInputs))
	}
	return requestOf(Recurrent, 1, map[string]*inferencev1.Tensor{"features": t})
}

func floats(name string, shape ...int64) graph.Value {
	return graph.Value{Name: name, Type: graph.Type{Kind: graph.Tensor, Elem: graph.Float, Ranked: true, Shape: shape}}
}

// weights are such that values neither grow nor fade.
func weights(random *rand.Rand, name string, rows, columns int64) graph.Initializer {
	w := graph.Initializer{Name: name, Elem: graph.Float, Shape: []int64{rows, columns}}
	for range rows * columns {
		v := random.NormFloat64() / math.Sqrt(float64(rows))
		w.Raw = binary.LittleEndian.AppendUint32(w.Raw, math.Float32bits(float32(v)))
	}
	return w
}
