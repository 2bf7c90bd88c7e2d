package batch_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/model"
)

func TestNewRefusesSettings(t *testing.T) {
	for _, cfg := range []batch.Config{{Concurrency: -1}, {Queue: -1}, {MaxDelay: -1}} {
		if _, err := batch.New(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

// The bound is of all models together; what is refused has not run.
func TestQueueIsBounded(t *testing.T) {
	w := zoo(t, batch.Config{Queue: 2})
	single, picky := w.version(t, "single", 1), w.version(t, "picky", 1)
	release := w.busy(t)
	answers := w.queued(t, ask(single, "a", ints(1)), ask(picky, "a", ints(1)))
	for _, v := range []*model.Version{single, picky} {
		_, ran, err := w.Run(t.Context(), ask(v, "a", ints(1)))
		if !errors.Is(err, batch.ErrOverloaded) || !errors.Is(err, model.ErrNotStarted) || ran != 0 {
			t.Errorf("%s: with a full queue: ran for %v: %v", v.Name, ran, err)
		}
	}
	// Another caller has its share of the queue, and the next turn.
	other := w.start(t.Context(), ask(single, "b", ints(1)))
	if got := <-answers[1]; !errors.Is(got.err, batch.ErrOverloaded) {
		t.Errorf("the newest of whoever has most: %v", got.err)
	}
	release()
	for _, done := range []<-chan answer{other, answers[0]} {
		if got := <-done; got.err != nil {
			t.Error(got.err)
		}
	}
	if w.Running() != 0 || w.Waiting() != 0 {
		t.Errorf("%d run and %d wait", w.Running(), w.Waiting())
	}
}

func TestCallerThatGoesBeforeItsTurn(t *testing.T) {
	w := zoo(t, batch.Config{})
	release := w.busy(t)
	defer release()
	for _, name := range []string{"single", "picky"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := w.start(ctx, ask(w.version(t, name, 1), "a", ints(1)))
		until(t, func() bool { return w.Waiting() == 1 })
		cancel()
		if got := <-done; !errors.Is(got.err, context.Canceled) || !errors.Is(got.err, model.ErrNotStarted) || got.ran != 0 {
			t.Errorf("%s: ran for %v: %v", name, got.ran, got.err)
		}
	}
}

// Waiting is not model time, and of a merged run each has its part.
func TestModelTimeIsOwn(t *testing.T) {
	w := zoo(t, batch.Config{})
	patient, single := w.version(t, "patient", 1), w.version(t, "single", 1)
	in := func(n int64, rows int) batch.Request {
		r := ask(patient, "a", ints(make([]int64, rows)...))
		for i := range rows {
			r.Inputs["n"].Data[8*i] = byte(n)
			r.Inputs["n"].Data[8*i+1] = byte(n >> 8)
			r.Inputs["n"].Data[8*i+2] = byte(n >> 16)
		}
		r.Inputs["x"] = floats(make([]float32, rows)...)
		return r
	}
	_, whole, err := w.Run(t.Context(), in(100_000, 1))
	if err != nil {
		t.Fatal(err)
	}
	release := w.busy(t)
	start := time.Now()
	answers := w.queued(t, ask(single, "a", ints(1)), in(100_000, 1), in(100_000, 3))
	const idle = 200 * time.Millisecond
	time.Sleep(idle) // for which they wait
	release()
	alone, one, three := <-answers[0], <-answers[1], <-answers[2]
	elapsed := time.Since(start)
	for _, got := range []answer{alone, one, three} {
		if got.err != nil {
			t.Fatal(got.err)
		}
	}
	if ratio := float64(three.ran) / float64(one.ran); ratio < 2.99 || ratio > 3.01 {
		t.Errorf("three rows ran for %v, one for %v", three.ran, one.ran)
	}
	if sum := alone.ran + one.ran + three.ran; sum > elapsed-idle {
		t.Errorf("they ran for %v of %v, of which they waited for %v", sum, elapsed, idle)
	}
	t.Logf("alone one row ran for %v, in a run of four for %v", whole, one.ran)
	if w.waited["single"] < idle || w.waited["patient"] < 2*idle {
		t.Errorf("waited for %v", w.waited)
	}
}
