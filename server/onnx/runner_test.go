package onnx_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

var allTypes = map[graph.Elem]model.DType{
	graph.Bool: model.Bool, graph.Int8: model.Int8, graph.Int16: model.Int16, graph.Int32: model.Int32,
	graph.Int64: model.Int64, graph.Uint8: model.Uint8, graph.Uint16: model.Uint16, graph.Uint32: model.Uint32,
	graph.Uint64: model.Uint64, graph.Float16: model.Float16, graph.Float: model.Float32, graph.Double: model.Float64,
	graph.BFloat16: model.BFloat16, graph.String: model.String,
}

// sample is a tensor whose elements all differ where the type has that many.
func sample(dtype model.DType, shape ...int64) *model.Tensor {
	t := &model.Tensor{DType: dtype, Shape: shape}
	n := model.Elements(shape)
	if dtype == model.String {
		texts := []string{"", "a", "Zürich", "日本語", "line\nline", strings.Repeat("long ", 1000), "\u202e", "\x7f"}
		for i := range n {
			t.Strings = append(t.Strings, texts[i%int64(len(texts))])
		}
		return t
	}
	for i := range int(n) * dtype.Size() {
		b := byte(i%50 + 1)
		if dtype == model.Bool {
			b = byte(i % 2)
		}
		t.Data = append(t.Data, b)
	}
	return t
}

func TestEveryTypeGoesInAndOut(t *testing.T) {
	rt := onnxtest.Open(t)
	for elem, dtype := range allTypes {
		for _, shape := range [][]int64{{-1, 3}, {}} {
			if len(shape) == 0 && (dtype == model.String || dtype == model.Float16 || dtype == model.BFloat16) {
				continue // refused at Load
			}
			t.Run(fmt.Sprintf("%s of rank %d", dtype, len(shape)), func(t *testing.T) {
				m := load(t, rt, one("Identity", tensorOf(elem, shape...), value("x", tensorOf(elem, shape...))))
				want := &model.Signature{
					Inputs:  []model.TensorSpec{{Name: "x", DType: dtype, Shape: shape}},
					Outputs: []model.TensorSpec{{Name: "y", DType: dtype, Shape: shape}},
				}
				if diff := cmp.Diff(want, m.Signature(), cmpopts.EquateEmpty()); diff != "" {
					t.Fatal(diff)
				}
				x := sample(dtype)
				if len(shape) > 0 {
					x = sample(dtype, 5, 3)
				}
				got, err := m.Run(t.Context(), tensors{"x": x}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tensors{"y": x}, got, cmpopts.EquateEmpty()); diff != "" {
					t.Fatal(diff)
				}
			})
		}
	}
}

func TestRunReadsUnalignedData(t *testing.T) {
	m := load(t, onnxtest.Open(t), one("Neg", tensorOf(graph.Double, -1), value("x", tensorOf(graph.Double, -1))))
	buffer := make([]byte, 8*8+8) // of a size class whose objects are aligned
	for offset := range 8 {
		x := &model.Tensor{DType: model.Float64, Shape: []int64{8}, Data: buffer[offset : offset+64]}
		copy(x.Data, sample(model.Float64, 8).Data)
		inPlace := onnx.Aligned(x.Data, 8)
		if address := uintptr(unsafe.Pointer(&inPlace[0])); address%8 != 0 || (&inPlace[0] == &x.Data[0]) != (offset == 0) {
			t.Errorf("%d bytes into the buffer: read at %#x", offset, address)
		}
		want := slices.Clone(x.Data)
		for i := range 8 {
			want[8*i+7] ^= 0x80
		}
		got, err := m.Run(t.Context(), tensors{"x": x}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got["y"].Data); diff != "" {
			t.Fatalf("%d bytes into the buffer: %s", offset, diff)
		}
	}
}

func TestOutputsAreTheCallers(t *testing.T) {
	rt := onnxtest.Open(t)
	g := classifier([]float32{1, 0, 0, 1}, []int64{0, 1})
	g.Outputs = append(g.Outputs, value("scores", tensorOf(graph.Float, -1, 2)))
	m := load(t, rt, g)
	in := tensors{"x": floats([]int64{1, 2}, 3, 4)}
	first, err := m.Run(t.Context(), in, nil)
	if err != nil {
		t.Fatal(err)
	}
	clear(in["x"].Data)
	if diff := cmp.Diff(floats([]int64{1, 2}, 3, 4), first["scores"], cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("an output changed with an input: %s", diff)
	}
	for _, out := range first {
		clear(out.Data)
		clear(out.Shape)
	}
	second, err := m.Run(t.Context(), tensors{"x": floats([]int64{1, 2}, 3, 4)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := tensors{
		"label": ints([]int64{1}, 1), "scores": floats([]int64{1, 2}, 3, 4),
		"probabilities": floats([]int64{1, 2}, 3, 4), "probabilities.labels": ints([]int64{2}, 0, 1),
	}
	if diff := cmp.Diff(want, second, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("outputs of one run changed those of the next: %s", diff)
	}
	clear(second["scores"].Data)
	if diff := cmp.Diff(want["probabilities"], second["probabilities"], cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("an output changed with another: %s", diff)
	}
}

func TestRunAnswersTheOutputsAskedFor(t *testing.T) {
	m := load(t, onnxtest.Open(t), classifier([]float32{1, 0, 0, 1}, []int64{0, 1}))
	got, err := m.Run(t.Context(), tensors{"x": floats([]int64{1, 2}, 3, 4)}, []string{"label"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tensors{"label": ints([]int64{1}, 1)}, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestInvalidInput(t *testing.T) {
	float, text, flag := tensorOf(graph.Float, -1), tensorOf(graph.String, -1), tensorOf(graph.Bool, -1)
	identity := one("Identity", float, value("x", float))
	for name, test := range map[string]struct {
		graph   graph.Graph
		inputs  tensors
		outputs []string
		want    string
	}{
		"missing":         {identity, tensors{}, nil, `input "x" is missing`},
		"other type":      {identity, tensors{"x": ints([]int64{1}, 1)}, nil, `input "x" is INT64, not FLOAT32`},
		"other rank":      {identity, tensors{"x": floats([]int64{1, 1}, 1)}, nil, `input "x" has 2 dimensions, not 1`},
		"unknown output":  {identity, tensors{"x": floats([]int64{1}, 1)}, []string{"z"}, `there is no output "z"`},
		"too few bytes":   {identity, tensors{"x": {DType: model.Float32, Shape: []int64{2}, Data: make([]byte, 4)}}, nil, "needs 2 elements"},
		"negative length": {identity, tensors{"x": {DType: model.Float32, Shape: []int64{-1}}}, nil, "negative"},
		"no rows":         {identity, tensors{"x": floats([]int64{0})}, nil, `input "x": invalid input: it has no elements`},
		"no strings":      {one("Identity", text, value("x", text)), tensors{"x": words([]int64{0})}, nil, "no elements"},
		"NUL in a string": {one("Identity", text, value("x", text)), tensors{"x": words([]int64{2}, "a", "b\x00c")}, nil, "NUL"},
		"neither true nor false": {
			one("Not", flag, value("x", flag)),
			tensors{"x": {DType: model.Bool, Shape: []int64{2}, Data: []byte{1, 2}}}, nil, "neither 0 nor 1",
		},
		"length of a fixed dimension": {
			one("Identity", tensorOf(graph.Float, 2), value("x", tensorOf(graph.Float, 2))),
			tensors{"x": floats([]int64{3}, 1, 2, 3)}, nil, "Got invalid dimensions",
		},
		"lengths that do not go together": {
			one("Add", float, value("x", float), value("z", float)),
			tensors{"x": floats([]int64{2}, 1, 2), "z": floats([]int64{3}, 1, 2, 3)}, nil, "while running Add node",
		},
		"index out of range": {
			one("Gather", float, value("x", float), value("i", tensorOf(graph.Int64, -1))),
			tensors{"x": floats([]int64{2}, 1, 2), "i": ints([]int64{1}, 2)}, nil, "out of data bounds",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := load(t, onnxtest.Open(t), test.graph)
			out, err := m.Run(t.Context(), test.inputs, test.outputs)
			if !errors.Is(err, model.ErrInvalidInput) {
				t.Fatalf("got %v and %v, want %v", out, err, model.ErrInvalidInput)
			}
			if text := err.Error(); !strings.Contains(text, test.want) || strings.ContainsAny(text, "\n") || strings.Contains(text, "/onnx") {
				t.Errorf("got %q, want one line with %q and no path", text, test.want)
			}
		})
	}
}

func TestLackOfMemoryIsNotTheInputsFault(t *testing.T) {
	m := load(t, onnxtest.Open(t),
		one("ConstantOfShape", tensorOf(graph.Float, -1), value("n", tensorOf(graph.Int64, -1))))
	_, err := m.Run(t.Context(), tensors{"n": ints([]int64{1}, 1<<45)}, nil)
	if err == nil || errors.Is(err, model.ErrInvalidInput) {
		t.Errorf("got %v, want another error than %v", err, model.ErrInvalidInput)
	}
}

func TestConcurrentRunsDoNotMix(t *testing.T) {
	rt := open(t, onnx.Config{Threads: 2})
	text := tensorOf(graph.String, -1)
	number, word := load(t, rt, classifier([]float32{1, 0, 0, 1}, []string{"no", "yes"})), load(t, rt, one("Identity", text, value("x", text)))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 200 {
				n := float32(i*1000 + j)
				got, err := number.Run(t.Context(), tensors{"x": floats([]int64{1, 2}, n, n+1)}, []string{"probabilities"})
				if err != nil {
					t.Error(err)
					return
				}
				if diff := cmp.Diff(floats([]int64{1, 2}, n, n+1), got["probabilities"], cmpopts.EquateEmpty()); diff != "" {
					t.Error(diff)
					return
				}
				want := words([]int64{1}, fmt.Sprint(n))
				got, err = word.Run(t.Context(), tensors{"x": want}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if diff := cmp.Diff(want, got["y"], cmpopts.EquateEmpty()); diff != "" {
					t.Error(diff)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkRun(b *testing.B) {
	m := load(b, onnxtest.Open(b), classifier([]float32{1, 0, 0, 1}, []int64{0, 1}))
	for _, rows := range []int64{1, 1024} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			in := tensors{"x": sample(model.Float32, rows, 2)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Run(b.Context(), in, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
