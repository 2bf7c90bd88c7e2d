package batch_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// together runs requests that wait at the same time, and returns their errors.
func (w *world) together(t *testing.T, requests ...batch.Request) (errs []error) {
	t.Helper()
	release := w.busy(t)
	answers := w.queued(t, requests...)
	release()
	for _, done := range answers {
		errs = append(errs, (<-done).err)
	}
	return errs
}

// failures is how many merged runs have failed.
func (w *world) failures() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// A caller that makes a run of all fail cannot do it over and over: each time costs
// the others a run each instead of one together.
func TestWhoSpoilsRunsIsRunApart(t *testing.T) {
	w := zoo(t, batch.Config{})
	picky := w.version(t, "picky", 1)
	for round := range 3 {
		errs := w.together(t, ask(picky, "a", ints(1)), ask(picky, "bad", ints(77)), ask(picky, "b", ints(2)))
		if errs[0] != nil || !errors.Is(errs[1], model.ErrInvalidInput) || errs[2] != nil {
			t.Fatalf("round %d: %v", round, errs)
		}
	}
	if n := w.failures(); n != 1 {
		t.Errorf("%d merged runs failed, want the first only", n)
	}
	runs, requests := w.mergedRuns()
	if runs != 3 || requests != 3+2+2 {
		t.Errorf("%d requests in %d merged runs: the others are still to be merged", requests, runs)
	}
	// It still has runs of its own requests.
	if errs := w.together(t, ask(picky, "bad", ints(1)), ask(picky, "bad", ints(2))); errs[0] != nil || errs[1] != nil {
		t.Error(errs)
	}
	if runs, requests = w.mergedRuns(); runs != 4 || requests != 9 {
		t.Errorf("%d requests in %d merged runs", requests, runs)
	}
}

// doomed is picky, but finds out late: after as many rounds as its greatest n says.
func doomed() graph.Graph {
	p, slow := picky(), patient()
	cast := graph.Node{Op: "Cast", Inputs: []string{"y"}, Outputs: []string{"none"}, Attributes: []graph.Attribute{{Name: "to", Value: int64(graph.Int64)}}}
	add := graph.Node{Op: "Add", Inputs: []string{"i", "none"}, Outputs: []string{"late"}}
	take := graph.Node{Op: "Gather", Inputs: []string{"table", "late"}, Outputs: []string{"z"}}
	slow.Nodes = append(slow.Nodes, cast, add, take)
	slow.Initializers = append(slow.Initializers, p.Initializers...)
	slow.Inputs = append(slow.Inputs, p.Inputs...)
	slow.Outputs = []graph.Value{{Name: "z", Type: number(graph.Float, -1)}}
	return slow
}

// Nor can one that goes away before it is found out.
func TestWhoSpoilsRunsAndLeavesIsRunApart(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "spinning", onnxtest.Countdown(), "{}")
	write(t, dir, "doomed", doomed(), batching)
	w := open(t, dir, batch.Config{Concurrency: 1, MaxDelay: time.Hour})
	v := w.version(t, "doomed", 1)
	in := func(caller string, rounds, index int64) batch.Request {
		return batch.Request{Version: v, Caller: caller, Rows: 1, Inputs: tensors{"n": ints(rounds), "x": floats(0), "i": ints(index)}}
	}
	release := w.busy(t)
	first := w.start(t.Context(), in("a", 1, 1))
	until(t, func() bool { return w.Waiting() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	bad := w.start(ctx, in("bad", 2_000_000, 77))
	until(t, func() bool { return w.Waiting() == 2 })
	release()
	until(t, func() bool { return w.Waiting() == 0 && w.Running() == 1 })
	cancel()
	if got := <-bad; !errors.Is(got.err, context.Canceled) {
		t.Errorf("gone in the run: %v", got.err)
	}
	if got := <-first; got.err != nil {
		t.Error(got.err)
	}
	if errs := w.together(t, in("a", 1, 1), in("bad", 1, 77), in("b", 1, 2)); errs[0] != nil || errs[2] != nil {
		t.Error(errs)
	}
	if n := w.failures(); n != 1 {
		t.Errorf("%d merged runs failed, want the first only", n)
	}
}
