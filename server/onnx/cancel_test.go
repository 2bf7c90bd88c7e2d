package onnx_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/graph"
)

// start begins a run and returns what will be its error.
func start(ctx context.Context, m model.Runner, n int64) <-chan error {
	return startAs(ctx, "", m, n)
}

// callerKey is under which the context of a run says whose it is.
type callerKey struct{}

// startAs is start for a caller.
func startAs(ctx context.Context, caller string, m model.Runner, n int64) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := m.Run(context.WithValue(ctx, callerKey{}, caller), caller, rounds(n), nil)
		done <- err
	}()
	return done
}

// until waits for a condition that another goroutine brings about.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("it did not come to that in 10 s")
		}
	}
}

func TestEndOfContextEndsARun(t *testing.T) {
	rt := open(t, onnx.Config{Concurrency: 1})
	m := load(t, rt, countdown())
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		done := start(ctx, m, forever)
		until(t, func() bool { return rt.Running() == 1 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want %v", err, context.Canceled)
		}
		// The next one is not hurt.
		got, err := m.Run(t.Context(), "", rounds(3), nil)
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
	rt := open(t, onnx.Config{Concurrency: 2})
	m := load(t, rt, countdown())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended, other := start(ctx, m, forever), start(t.Context(), m, 200_000)
	until(t, func() bool { return rt.Running() == 2 })
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
	m := load(t, open(t, onnx.Config{}), one("Not", flag, value("x", flag)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// If it came to its turn, its input would be the error.
	x := &model.Tensor{DType: model.Bool, Shape: []int64{1}, Data: []byte{2}}
	if _, err := m.Run(ctx, "", tensors{"x": x}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestQueue(t *testing.T) {
	rt := open(t, onnx.Config{Concurrency: 1, Queue: 1})
	// The bound is the runtime's, whatever the model.
	m, other := load(t, rt, countdown()), load(t, rt, countdown())
	ctx, cancel := context.WithCancel(t.Context())
	running := start(ctx, m, forever)
	until(t, func() bool { return rt.Running() == 1 })

	impatient, leave := context.WithCancel(t.Context())
	waiting := start(impatient, other, 1)
	until(t, func() bool { return rt.Waiting() == 1 })
	if err := <-start(t.Context(), other, 1); !errors.Is(err, model.ErrOverloaded) {
		t.Errorf("with a full queue: got %v, want %v", err, model.ErrOverloaded)
	}
	leave()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("a waiter that leaves: got %v, want %v", err, context.Canceled)
	}
	if n := rt.Running(); n != 1 {
		t.Errorf("%d runs go on, want the first", n)
	}

	waiting = start(t.Context(), other, 1)
	until(t, func() bool { return rt.Waiting() == 1 })
	cancel()
	if err := <-running; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: got %v, want %v", err, context.Canceled)
	}
	if err := <-waiting; err != nil {
		t.Errorf("a waiter whose turn came: %v", err)
	}
	if running, waiting := rt.Running(), rt.Waiting(); running != 0 || waiting != 0 {
		t.Errorf("%d runs and %d waiters are left", running, waiting)
	}
}

// A caller that came last has the next run, although another's runs fill the queue.
func TestRunsGoRoundBetweenCallers(t *testing.T) {
	var waited []string // one run at a time has its turn
	rt := open(t, onnx.Config{Concurrency: 1, Queue: 3, Waited: func(ctx context.Context, d time.Duration) {
		caller, _ := ctx.Value(callerKey{}).(string)
		if d <= 0 {
			t.Errorf("%s waited for %v", caller, d)
		}
		waited = append(waited, caller)
	}})
	m := load(t, rt, countdown())
	ctx, cancel := context.WithCancel(t.Context())
	running := startAs(ctx, "greedy", m, forever)
	until(t, func() bool { return rt.Running() == 1 })
	var greedy [3]<-chan error
	for i := range greedy {
		greedy[i] = startAs(t.Context(), "greedy", m, 1)
		until(t, func() bool { return rt.Waiting() == i+1 })
	}
	modest := startAs(t.Context(), "modest", m, 1)
	if err := <-greedy[2]; !errors.Is(err, model.ErrOverloaded) {
		t.Errorf("the newest of whoever has most: got %v, want %v", err, model.ErrOverloaded)
	}
	cancel()
	if err := <-running; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: got %v, want %v", err, context.Canceled)
	}
	for _, done := range []<-chan error{modest, greedy[0], greedy[1]} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"modest", "greedy", "greedy"}, waited); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
}
