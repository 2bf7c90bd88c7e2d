package onnx_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

func TestOpenAndClose(t *testing.T) {
	cfg := onnx.Config{Library: onnxtest.Library(t)}
	float := tensorOf(graph.Float, -1)
	for range 3 {
		rt, err := onnx.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if v := rt.Version(); !regexp.MustCompile(`^1\.\d+\.\d+$`).MatchString(v) {
			t.Errorf("version %q", v)
		}
		if _, err := onnx.Open(cfg); err == nil || !strings.Contains(err.Error(), "open in this process already") {
			t.Errorf("a second Open: %v", err)
		}
		m, err := rt.Load(serialized(one("Identity", float, value("x", float))))
		if err != nil {
			t.Fatal(err)
		}
		if err := rt.Close(); err == nil || !strings.Contains(err.Error(), "1 models are loaded") {
			t.Errorf("Close while a model is loaded: %v", err)
		}
		if _, err := m.Run(t.Context(), tensors{"x": floats([]int64{1}, 1)}, nil); err != nil {
			t.Errorf("after the refused Close: %v", err)
		}
		for range 2 { // once is enough, but twice does no harm
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := rt.Close(); err != nil {
			t.Fatal(err)
		}
		if err := rt.Close(); err == nil {
			t.Error("closed twice")
		}
	}
}

func TestOpenRefusesSettings(t *testing.T) {
	library := onnxtest.Library(t)
	for _, cfg := range []onnx.Config{
		{}, {Library: library, Threads: -1},
	} {
		if _, err := onnx.Open(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

// TestNothingIsPrinted fails in ways whose texts have values of inputs in them.
func TestNothingIsPrinted(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	float := tensorOf(graph.Float, -1)
	m := load(t, onnxtest.Open(t), one("Gather", float, value("x", float), value("i", tensorOf(graph.Int64, -1))))
	if _, err := m.Run(t.Context(), tensors{"x": floats([]int64{1}, 1), "i": ints([]int64{1}, 77)}, nil); err == nil {
		t.Error("index 77 of 1 is accepted")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := <-start(ctx, load(t, onnxtest.Open(t), onnxtest.Countdown()), forever); err == nil {
		t.Error("forever has ended")
	}
}
