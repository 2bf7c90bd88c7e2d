package onnx_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// runs has a model run on the inputs one after the other and compares what it
// answers.
func runs(t *testing.T, m model.Runner, inputs, want []tensors) {
	t.Helper()
	for i, in := range inputs {
		got, err := m.Run(t.Context(), in, nil)
		if err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
		if diff := cmp.Diff(want[i], got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("run %d: %s", i, diff)
		}
	}
}

// TestRunsAreBound: from the third run of the same shapes on, values are reused,
// and no longer when others took their places.
func TestRunsAreBound(t *testing.T) {
	vector := tensorOf(graph.Float, -1)
	m := load(t, onnxtest.Open(t), one("Add", vector, value("x", vector), value("z", vector)))
	add := func(n int) {
		t.Helper()
		x, z, y := make([]float32, n), make([]float32, n), make([]float32, n)
		for i := range n {
			x[i], z[i], y[i] = float32(i), float32(n), float32(i+n)
		}
		shape := []int64{int64(n)}
		runs(t, m, []tensors{{"x": floats(shape, x...), "z": floats(shape, z...)}}, []tensors{{"y": floats(shape, y...)}})
	}
	for i, want := range []int{0, 1, 1, 1} {
		if add(3); onnx.Bindings(m) != want {
			t.Errorf("after run %d: %d bindings, want %d", i+1, onnx.Bindings(m), want)
		}
	}
	for n := range 100 {
		add(n + 4) // a shape that comes once is not worth one
	}
	if n := onnx.Bindings(m); n != 1 {
		t.Errorf("%d bindings after shapes that came once, want 1", n)
	}
	for n := range 100 {
		add(n + 4)
		add(n + 4)
		add(n + 4)
	}
	if n := onnx.Bindings(m); n > 8 {
		t.Errorf("%d bindings are kept", n)
	}
	add(20_000) // 160 KB
	add(20_000)
	add(20_000)
}

// TestGraphsThatCannotBeBound have outputs that do not follow from the shapes of
// the inputs, or that no node writes.
func TestGraphsThatCannotBeBound(t *testing.T) {
	rt := onnxtest.Open(t)
	vector, indices := tensorOf(graph.Float, -1), tensorOf(graph.Int64, -1, -1)
	two := []int64{2}
	passed := one("Neg", vector, value("x", vector))
	passed.Outputs = append(passed.Outputs, value("x", vector))
	constant := one("Neg", vector, value("x", vector))
	constant.Initializers = []graph.Initializer{{Name: "c", Elem: graph.Float, Shape: two, Raw: floats(two, 7, 8).Data}}
	constant.Outputs = append(constant.Outputs, value("c", tensorOf(graph.Float, 2)))
	twice := classifier([]float32{1, 0, 0, 1}, []int64{0, 1})
	twice.Outputs = append(twice.Outputs, value("scores", tensorOf(graph.Float, -1, 2)))
	for name, c := range map[string]struct {
		graph        graph.Graph
		inputs, want []tensors
	}{
		"as many as are not zero": {
			one("NonZero", indices, value("x", vector)),
			[]tensors{{"x": floats(two, 1, 0)}, {"x": floats(two, 2, 0)}, {"x": floats(two, 3, 0)}, {"x": floats(two, 0, 4)}, {"x": floats(two, 5, 6)}, {"x": floats(two, 5, 0)}},
			[]tensors{{"y": ints([]int64{1, 1}, 0)}, {"y": ints([]int64{1, 1}, 0)}, {"y": ints([]int64{1, 1}, 0)}, {"y": ints([]int64{1, 1}, 1)}, {"y": ints([]int64{1, 2}, 0, 1)}, {"y": ints([]int64{1, 1}, 0)}},
		},
		"an input": {
			passed,
			[]tensors{{"x": floats(two, 1, 2)}, {"x": floats(two, 3, 4)}, {"x": floats(two, 5, 6)}, {"x": floats(two, 7, 8)}},
			[]tensors{{"y": floats(two, -1, -2), "x": floats(two, 1, 2)}, {"y": floats(two, -3, -4), "x": floats(two, 3, 4)}, {"y": floats(two, -5, -6), "x": floats(two, 5, 6)}, {"y": floats(two, -7, -8), "x": floats(two, 7, 8)}},
		},
		"a constant": {
			constant,
			[]tensors{{"x": floats(two, 1, 2)}, {"x": floats(two, 3, 4)}, {"x": floats(two, 5, 6)}},
			[]tensors{{"y": floats(two, -1, -2), "c": floats(two, 7, 8)}, {"y": floats(two, -3, -4), "c": floats(two, 7, 8)}, {"y": floats(two, -5, -6), "c": floats(two, 7, 8)}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			runs(t, load(t, rt, c.graph), c.inputs, c.want)
		})
	}
	t.Run("fetched twice", func(t *testing.T) {
		m := load(t, rt, twice)
		for i := range 5 {
			n := float32(i)
			got, err := m.Run(t.Context(), tensors{"x": floats([]int64{1, 2}, n, n+1)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, output := range []string{"scores", "probabilities"} {
				if diff := cmp.Diff(floats([]int64{1, 2}, n, n+1), got[output]); diff != "" {
					t.Errorf("%s: %s", output, diff)
				}
			}
		}
	})
}

// TestFaultyInputsOfBoundRuns are refused as those of others, and the runs after
// them are right.
func TestFaultyInputsOfBoundRuns(t *testing.T) {
	float := tensorOf(graph.Float, -1)
	m := load(t, onnxtest.Open(t), one("Gather", float, value("x", float), value("i", tensorOf(graph.Int64, -1))))
	two := []int64{2}
	for n := range int64(50) {
		got, err := m.Run(t.Context(), tensors{"x": floats(two, 1, 2), "i": ints([]int64{1}, n%3)}, nil)
		if n%3 == 2 {
			if !errors.Is(err, model.ErrInvalidInput) {
				t.Fatalf("run %d: got %v, want %v", n, err, model.ErrInvalidInput)
			}
			continue
		}
		if err != nil {
			t.Fatalf("run %d: %v", n, err)
		}
		if diff := cmp.Diff(tensors{"y": floats([]int64{1}, float32(n%3+1))}, got); diff != "" {
			t.Fatalf("run %d: %s", n, diff)
		}
	}
	if onnx.Bindings(m) == 0 {
		t.Error("no run was bound")
	}
}

// TestBindingsKeepNothing: what one run read and wrote is gone before the next.
func TestBindingsKeepNothing(t *testing.T) {
	vector := tensorOf(graph.Float, -1)
	m := load(t, onnxtest.Open(t), one("Neg", vector, value("x", vector)))
	for range 3 {
		if _, err := m.Run(t.Context(), tensors{"x": floats([]int64{2}, 3, 4)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	memory := onnx.BoundMemory(m)
	if len(memory) != 2 {
		t.Fatalf("%d values are bound, want an input and an output", len(memory))
	}
	for _, data := range memory {
		if !bytes.Equal(data, make([]byte, len(data))) {
			t.Errorf("% x is left", data)
		}
	}
}

// FuzzBoundRuns lets callers run at the same time, on inputs of few shapes that the
// fuzzer chooses, some of them wrong, and holds every answer against the sum that
// it has to be.
func FuzzBoundRuns(f *testing.F) {
	vector := tensorOf(graph.Float, -1)
	f.Add([]byte{1, 1, 1, 1, 2, 2, 2, 1, 1, 0x83, 1, 1})
	f.Add(bytes.Repeat([]byte{3, 4, 3, 0x84}, 16))
	rt := open(f, onnx.Config{})
	m := load(f, rt, one("Add", vector, value("x", vector), value("z", vector)))
	f.Fuzz(func(t *testing.T, shapes []byte) {
		var wg sync.WaitGroup
		for caller := range 4 {
			wg.Go(func() {
				for i, s := range shapes[:min(len(shapes), 64)] {
					n := int64(s%8) + 1
					x, z, want := make([]float32, n), make([]float32, n), make([]float32, n)
					for j := range n {
						x[j], z[j] = float32(caller*1000+i), float32(j)
						want[j] = x[j] + z[j]
					}
					if s&0x80 != 0 {
						z = append(z, make([]float32, 8)...) // neither as long nor one
					}
					got, err := m.Run(t.Context(), tensors{"x": floats([]int64{n}, x...), "z": floats([]int64{int64(len(z))}, z...)}, nil)
					switch {
					case s&0x80 != 0 && n > 1:
						if !errors.Is(err, model.ErrInvalidInput) {
							t.Errorf("got %v, want %v", err, model.ErrInvalidInput)
						}
					case err != nil:
						t.Error(err)
					case s&0x80 == 0:
						if diff := cmp.Diff(floats([]int64{n}, want...), got["y"]); diff != "" {
							t.Error(diff)
						}
					}
				}
			})
		}
		wg.Wait()
	})
}
