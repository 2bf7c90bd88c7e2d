package onnx_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// noticed is a context that tells when somebody asks for its end. A run does when it
// begins.
type noticed struct {
	context.Context
	asked chan struct{}
	once  sync.Once
}

func (n *noticed) Done() <-chan struct{} {
	n.once.Do(func() { close(n.asked) })
	return n.Context.Done()
}

// start begins a run and returns what will be its error.
func start(ctx context.Context, m model.Runner, n int64) <-chan error {
	done := make(chan error, 1)
	run := &noticed{Context: ctx, asked: make(chan struct{})}
	go func() {
		_, err := m.Run(run, rounds(n), nil)
		done <- err
	}()
	<-run.asked
	return done
}

func TestEndOfContextEndsARun(t *testing.T) {
	rt := onnxtest.Open(t)
	m := load(t, rt, onnxtest.Countdown())
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		done := start(ctx, m, forever)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want %v", err, context.Canceled)
		}
		// The next one is not hurt.
		got, err := m.Run(t.Context(), rounds(3), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(floats([]int64{1}, 8), got["y"], cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := <-start(ctx, m, forever); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestEndOfOneRunLeavesOthersAlone(t *testing.T) {
	rt := onnxtest.Open(t)
	m := load(t, rt, onnxtest.Countdown())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended, other := start(ctx, m, forever), start(t.Context(), m, 200_000)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if err := <-other; err != nil {
		t.Errorf("the other run: %v", err)
	}
}

func TestNothingRunsForAnEndedContext(t *testing.T) {
	flag := tensorOf(graph.Bool, -1)
	m := load(t, onnxtest.Open(t), one("Not", flag, value("x", flag)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// If it came to its turn, its input would be the error.
	x := &model.Tensor{DType: model.Bool, Shape: []int64{1}, Data: []byte{2}}
	if _, err := m.Run(ctx, tensors{"x": x}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
