package onnx_test

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// TestNoNativeMemoryIsLost makes 100,000 predictions of every sort, and some
// that fail in every way, and watches the memory of the process.
func TestNoNativeMemoryIsLost(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	const warmUp, predictions, bound = 20_000, 100_000, 16 << 20
	rt := onnxtest.Open(t)
	text, float, half := tensorOf(graph.String, -1), tensorOf(graph.Float, -1), tensorOf(graph.Float16, -1)
	numbers, labels := load(t, rt, classifier([]float32{1, 0, 0, 1}, []int64{0, 1})), load(t, rt, classifier([]float32{1, 0, 0, 1}, []string{"no", "yes"}))
	strs, halves := load(t, rt, one("Identity", text, value("x", text))), load(t, rt, one("Identity", half, value("x", half)))
	scalar, sum := load(t, rt, one("Identity", tensorOf(graph.Int64), value("x", tensorOf(graph.Int64)))), load(t, rt, one("Add", float, value("x", float), value("z", float)))
	sequence := load(t, rt, one("SequenceConstruct", graph.Type{Kind: graph.SequenceOfTensors, Elem: graph.String}, value("x", text), value("z", text)))
	loop := load(t, rt, onnxtest.Countdown())
	long := strings.Repeat("long", 1000)
	mix := []struct {
		model  model.Runner
		inputs tensors
		want   error
	}{
		{numbers, tensors{"x": sample(model.Float32, 32, 2)}, nil},
		{labels, tensors{"x": sample(model.Float32, 7, 2)}, nil},
		{strs, tensors{"x": words([]int64{3}, "", "word", long)}, nil},
		{halves, tensors{"x": sample(model.Float16, 500)}, nil},
		{scalar, tensors{"x": ints(nil, 1)}, nil},
		{sequence, tensors{"x": words([]int64{2}, "a", long), "z": words([]int64{2}, long, "b")}, nil},
		{sum, tensors{"x": sample(model.Float32, 500), "z": sample(model.Float32, 500)}, nil},
		{loop, rounds(2), nil},
		// The run fails, with outputs half made.
		{sum, tensors{"x": sample(model.Float32, 500), "z": sample(model.Float32, 400)}, model.ErrInvalidInput},
		// The second input fails when the first is made.
		{sequence, tensors{"x": words([]int64{2}, "a", long), "z": words([]int64{1}, "\x00")}, model.ErrInvalidInput},
	}
	run := func(n int) {
		for i := range n {
			c := mix[i%len(mix)]
			if _, err := c.model.Run(t.Context(), c.inputs, nil); !errors.Is(err, c.want) {
				t.Fatalf("prediction %d: got %v, want %v", i, err, c.want)
			}
			if i%100 > 0 {
				continue
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := start(ctx, loop, forever)
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Fatalf("prediction %d: got %v, want %v", i, err, context.Canceled)
			}
		}
	}
	run(warmUp)
	before := resident(t)
	run(predictions)
	after := resident(t)
	t.Logf("%d KiB before, %d KiB after", before>>10, after>>10)
	if after > before+bound {
		t.Errorf("memory grew by %d KiB, more than %d KiB", (after-before)>>10, bound>>10)
	}
}

// resident is how many bytes of the process are in memory, once Go has given
// back what it can.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
