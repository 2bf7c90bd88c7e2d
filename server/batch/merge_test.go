package batch_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// patient is a model that takes a row's own n and waits for as many rounds as the
// greatest of them says.
func patient() graph.Graph {
	g := onnxtest.Countdown()
	g.Nodes[0].Inputs = []string{"rounds", "true", "x"}
	g.Nodes = append([]graph.Node{{
		Op: "ReduceMax", Inputs: []string{"n"}, Outputs: []string{"rounds"},
		Attributes: []graph.Attribute{{Name: "keepdims", Value: int64(0)}},
	}}, g.Nodes...)
	g.Inputs[0].Type = number(graph.Int64, -1)
	return g
}

// total is a model with one row for all rows.
func total() graph.Graph {
	return graph.Graph{
		Nodes:   []graph.Node{{Op: "ReduceSum", Inputs: []string{"x"}, Outputs: []string{"y"}}},
		Inputs:  []graph.Value{{Name: "x", Type: number(graph.Float, -1)}},
		Outputs: []graph.Value{{Name: "y", Type: number(graph.Float, -1)}},
	}
}

// pairs is a model with two outputs and an input whose second dimension is any.
func pairs() graph.Graph {
	wide := number(graph.Float, -1, -1)
	return graph.Graph{
		Nodes: []graph.Node{
			{Op: "Neg", Inputs: []string{"x"}, Outputs: []string{"minus"}},
			{Op: "Identity", Inputs: []string{"x"}, Outputs: []string{"plus"}},
		},
		Inputs:  []graph.Value{{Name: "x", Type: wide}},
		Outputs: []graph.Value{{Name: "minus", Type: wide}, {Name: "plus", Type: wide}},
	}
}

const batching = "batching: {max_rows: 8}"

// zoo is models of ours, one run at a time.
func zoo(t *testing.T, cfg batch.Config) *world {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "spinning", onnxtest.Countdown(), "{}")
	write(t, dir, "picky", picky(), batching)
	write(t, dir, "patient", patient(), batching)
	write(t, dir, "total", total(), batching)
	write(t, dir, "pairs", pairs(), batching)
	write(t, dir, "single", picky(), "{}")
	cfg.Concurrency = 1
	if cfg.MaxDelay == 0 {
		cfg.MaxDelay = time.Hour
	}
	return open(t, dir, cfg)
}

// ask is a request of one input for all outputs.
func ask(v *model.Version, caller string, in *model.Tensor) batch.Request {
	return batch.Request{Version: v, Caller: caller, Inputs: tensors{v.Signature.Inputs[0].Name: in}, Rows: in.Rows()}
}

// queued starts requests while the turn is taken, one after the other, and returns
// when all of them wait.
func (w *world) queued(t *testing.T, requests ...batch.Request) (answers []<-chan answer) {
	t.Helper()
	for i, r := range requests {
		answers = append(answers, w.start(t.Context(), r))
		until(t, func() bool { return w.Waiting() == i+1 })
	}
	return answers
}

func TestWhatIsMerged(t *testing.T) {
	w := zoo(t, batch.Config{})
	picky, single, pairs := w.version(t, "picky", 1), w.version(t, "single", 1), w.version(t, "pairs", 1)
	wide := func(columns int64, outputs ...string) batch.Request {
		r := ask(pairs, "a", &model.Tensor{DType: model.Float32, Shape: []int64{1, columns}, Data: make([]byte, 4*columns)})
		r.Outputs = outputs
		return r
	}
	stream := ask(picky, "a", ints(2))
	stream.Stream = true
	for name, test := range map[string]struct {
		requests []batch.Request
		merged   []int
	}{
		"one":               {[]batch.Request{ask(picky, "a", ints(1))}, nil},
		"of one caller":     {[]batch.Request{ask(picky, "a", ints(1)), ask(picky, "a", ints(2))}, []int{2}},
		"of three callers":  {[]batch.Request{ask(picky, "a", ints(1)), ask(picky, "b", ints(2, 3)), ask(picky, "c", ints(0))}, []int{3}},
		"as many as fit":    {[]batch.Request{ask(picky, "a", ints(0, 1, 2, 3)), ask(picky, "b", ints(3, 2, 1)), ask(picky, "c", ints(0, 0)), ask(picky, "d", ints(1))}, []int{3}},
		"too many rows":     {[]batch.Request{ask(picky, "a", ints(0, 1, 2, 3, 0, 1, 2, 3)), ask(picky, "b", ints(1))}, nil},
		"not if not said":   {[]batch.Request{ask(single, "a", ints(1)), ask(single, "a", ints(2))}, nil},
		"calls and batches": {[]batch.Request{ask(picky, "a", ints(1)), stream, ask(picky, "b", ints(1)), stream}, []int{2, 2}},
		"equal shapes":      {[]batch.Request{wide(2), wide(3), wide(2), wide(3), wide(3)}, []int{2, 3}},
		"equal outputs":     {[]batch.Request{wide(1, "plus"), wide(1), wide(1, "plus"), wide(1, "minus", "plus"), wide(1, "plus", "minus")}, []int{2, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			w.mu.Lock()
			w.merged = nil
			w.mu.Unlock()
			release := w.busy(t)
			answers := w.queued(t, test.requests...)
			release()
			for i, done := range answers {
				r := test.requests[i]
				want, err := r.Version.Runner.Run(t.Context(), r.Inputs, r.Outputs)
				if err != nil {
					t.Fatal(err)
				}
				got := <-done
				if got.err != nil || got.ran <= 0 {
					t.Errorf("request %d ran for %v: %v", i, got.ran, got.err)
				}
				if diff := cmp.Diff(want, got.outputs, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("request %d (-alone +merged):\n%s", i, diff)
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			slices.Sort(w.merged)
			if diff := cmp.Diff(test.merged, w.merged, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("requests in merged runs (-want +got):\n%s", diff)
			}
		})
	}
}

// Who fails alone fails alone.
func TestFailureOfOneIsNotTheOthers(t *testing.T) {
	w := zoo(t, batch.Config{})
	picky := w.version(t, "picky", 1)
	release := w.busy(t)
	answers := w.queued(t, ask(picky, "a", ints(1)), ask(picky, "b", ints(2, 77)), ask(picky, "c", ints(3)))
	release()
	for i, want := range []*model.Tensor{floats(20), nil, floats(40)} {
		got := <-answers[i]
		if want == nil {
			if !errors.Is(got.err, model.ErrInvalidInput) {
				t.Errorf("the one with an index of 77: %v", got.err)
			}
			continue
		}
		if diff := cmp.Diff(tensors{"y": want}, got.outputs, cmpopts.EquateEmpty()); got.err != nil || diff != "" {
			t.Errorf("request %d: %v %s", i, got.err, diff)
		}
	}
	if w.failed != 1 {
		t.Errorf("%d merged runs failed", w.failed)
	}
}

// A model that does not keep rows apart, whatever its manifest says, has each request
// run by itself.
func TestOutputsWithoutARowEach(t *testing.T) {
	w := zoo(t, batch.Config{})
	total := w.version(t, "total", 1)
	release := w.busy(t)
	answers := w.queued(t, ask(total, "a", floats(1)), ask(total, "b", floats(2)), ask(total, "c", floats(4)))
	release()
	for i, want := range []float32{1, 2, 4} {
		got := <-answers[i]
		if diff := cmp.Diff(tensors{"y": floats(want)}, got.outputs, cmpopts.EquateEmpty()); got.err != nil || diff != "" {
			t.Errorf("request %d: %v %s", i, got.err, diff)
		}
	}
}

// Calls that go away in the middle of a run of many leave the others alone, and the
// one that leads them waits for it; when all are gone the run ends.
func TestCallsThatGoAway(t *testing.T) {
	w := zoo(t, batch.Config{})
	patient := w.version(t, "patient", 1)
	in := func(n int64) batch.Request {
		r := ask(patient, "a", ints(n))
		r.Inputs["x"] = floats(3)
		return r
	}
	for _, all := range []bool{false, true} {
		release := w.busy(t)
		var ends []context.CancelFunc
		var answers []<-chan answer
		for i, n := range []int64{2_000_000, 1, 1, 1} {
			if all {
				n = forever
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ends, answers = append(ends, cancel), append(answers, w.start(ctx, in(n)))
			until(t, func() bool { return w.Waiting() == i+1 })
		}
		ends[3]() // before its turn
		if got := <-answers[3]; !errors.Is(got.err, context.Canceled) || !errors.Is(got.err, model.ErrNotStarted) {
			t.Errorf("gone before the run: %v", got.err)
		}
		before, _ := w.mergedRuns()
		release()
		until(t, func() bool { return w.Waiting() == 0 && w.Running() == 1 })
		ends[1]()
		if got := <-answers[1]; !errors.Is(got.err, context.Canceled) {
			t.Errorf("gone in the run: %v", got.err)
		}
		ends[0]() // leads the run
		if all {
			ends[2]()
			for _, i := range []int{0, 2} {
				if got := <-answers[i]; !errors.Is(got.err, context.Canceled) {
					t.Errorf("gone with all others: %v", got.err)
				}
			}
			continue
		}
		if got := <-answers[2]; got.err != nil || got.outputs["y"] == nil {
			t.Errorf("the one that stayed: %v", got.err)
		}
		if got := <-answers[0]; !errors.Is(got.err, context.Canceled) || got.ran == 0 {
			t.Errorf("the one that led: ran for %v: %v", got.ran, got.err)
		}
		if after, _ := w.mergedRuns(); after != before+1 {
			t.Errorf("%d merged runs", after-before)
		}
	}
}

// With max_delay a request waits for others although it has not to wait for its turn,
// and no longer than that, or than until there are rows enough.
func TestRequestsWaitForOthers(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "slow", picky(), "batching: {max_rows: 4, max_delay: 1s}")
	write(t, dir, "quick", picky(), "batching: {max_rows: 4, max_delay: 0.001s}")
	w := open(t, dir, batch.Config{Concurrency: 4, MaxDelay: time.Hour})
	slow, quick := w.version(t, "slow", 1), w.version(t, "quick", 1)
	start := time.Now()
	if _, _, err := w.Run(t.Context(), ask(quick, "a", ints(1))); err != nil || time.Since(start) < time.Millisecond {
		t.Errorf("alone: after %v: %v", time.Since(start), err)
	}
	first := w.start(t.Context(), ask(slow, "a", ints(1)))
	second := w.start(t.Context(), ask(slow, "b", ints(2, 3)))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if got := <-w.start(gone, ask(slow, "b", ints(2))); !errors.Is(got.err, model.ErrNotStarted) || !errors.Is(got.err, context.Canceled) {
		t.Errorf("gone while it waited for others: %v", got.err)
	}
	var third <-chan answer
	until(t, func() bool {
		// The fourth row, if the others have come to wait; more of them otherwise.
		third = w.start(t.Context(), ask(slow, "c", ints(0)))
		select {
		case got := <-third:
			return got.err == nil
		case <-time.After(2 * time.Second):
			return false
		}
	})
	for _, done := range []<-chan answer{first, second} {
		if got := <-done; got.err != nil {
			t.Error(got.err)
		}
	}
	if runs, requests := w.mergedRuns(); runs == 0 || requests < 2 {
		t.Errorf("%d requests in %d merged runs", requests, runs)
	}
}
