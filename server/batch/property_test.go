package batch_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/model"
)

// subject is a version that random requests go to.
type subject struct {
	version *model.Version
	rows    [][]string // of the only input
	// tolerance is how far a probability may be off. ONNX Runtime multiplies matrices
	// of few rows in another order than those of many, and then the last bits of a sum
	// may differ. 0 for models without such a product.
	tolerance float64
}

func (s subject) request(tb testing.TB, random *rand.Rand, most int) batch.Request {
	n := 1 + random.IntN(most)
	r := batch.Request{Version: s.version, Caller: fmt.Sprint(random.IntN(5)), Stream: random.IntN(4) == 0, Rows: int64(n)}
	spec := s.version.Signature.Inputs[0]
	if s.rows == nil {
		indexes := make([]int64, n)
		for i := range indexes {
			indexes[i] = random.Int64N(4)
			if random.IntN(40) == 0 {
				indexes[i] = 4 // fails
			}
		}
		r.Inputs = tensors{spec.Name: ints(indexes...)}
	} else {
		var rows [][]string
		for range n {
			rows = append(rows, s.rows[random.IntN(len(s.rows))])
		}
		r.Inputs = tensors{spec.Name: tensorOf(tb, spec.DType, rows)}
	}
	for _, o := range s.version.Signature.Outputs {
		if random.IntN(3) == 0 {
			r.Outputs = append(r.Outputs, o.Name)
		}
	}
	random.Shuffle(len(r.Outputs), func(i, j int) { r.Outputs[i], r.Outputs[j] = r.Outputs[j], r.Outputs[i] })
	return r
}

// differ tells how two answers differ: in more than tolerance, of floats; "" if they
// do not.
func differ(want, got tensors, tolerance float64) string {
	if len(want) != len(got) {
		return fmt.Sprintf("%d outputs, want %d", len(got), len(want))
	}
	for name, w := range want {
		g := got[name]
		switch {
		case g == nil:
			return "no output " + name
		case g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) || !slices.Equal(g.Strings, w.Strings) || len(g.Data) != len(w.Data):
			return fmt.Sprintf("output %s is %v %v, want %v %v", name, g.DType, g.Shape, w.DType, w.Shape)
		case bytes.Equal(w.Data, g.Data):
		case w.DType != model.Float32:
			return fmt.Sprintf("output %s is %v, want %v", name, g.Data, w.Data)
		default:
			for i := 0; i < len(w.Data); i += 4 {
				a, b := math.Float32frombits(binary.LittleEndian.Uint32(w.Data[i:])), math.Float32frombits(binary.LittleEndian.Uint32(g.Data[i:]))
				if off := math.Abs(float64(a) - float64(b)); !(off <= tolerance) {
					return fmt.Sprintf("output %s: element %d is %v, want %v, off by %g", name, i/4, b, a, off)
				}
			}
		}
	}
	return ""
}

// Whatever is requested at the same time, of several versions, in any sizes, for any
// outputs, by callers that go away in the middle of it: each has what it would have
// had alone, and who fails alone fails, and nobody else.
func TestMergedIsAsAlone(t *testing.T) {
	for _, delay := range []string{"0s", "0.002s"} {
		t.Run("max_delay="+delay, func(t *testing.T) {
			manifest := "\nbatching: {max_rows: 24, max_delay: " + delay + "}\n"
			dir := exampleModels(t, manifest)
			write(t, dir, "picky", picky(), manifest)
			w := open(t, dir, batch.Config{Concurrency: 1, MaxDelay: time.Hour})
			subjects := []subject{
				{w.version(t, "breast-cancer", 1), holdout(t, "breast-cancer"), 5e-7},
				{w.version(t, "breast-cancer", 2), holdout(t, "breast-cancer"), 0},
				{w.version(t, "digits", 1), holdout(t, "digits"), 5e-7},
				{w.version(t, "ticket-routing", 1), holdout(t, "tickets"), 5e-7},
				{w.version(t, "picky", 1), nil, 0},
			}
			var calls sync.WaitGroup
			var answered, failed, gone atomic.Int64
			for i := range uint64(32) {
				calls.Go(func() {
					random := rand.New(rand.NewPCG(i, 0))
					for range 60 {
						subject := subjects[random.IntN(len(subjects))]
						r := subject.request(t, random, 6)
						want, alone := r.Version.Runner.Run(t.Context(), r.Inputs, r.Outputs)
						ctx, cancel := t.Context(), context.CancelFunc(func() {})
						if random.IntN(8) == 0 {
							ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(3000))*time.Microsecond)
						}
						got, _, err := w.Run(ctx, r)
						cancel()
						// Who has its answer, or has gone, may do with its memory what it likes.
						for _, in := range r.Inputs {
							for j := range in.Data {
								in.Data[j] = 0xff
							}
							clear(in.Strings)
						}
						switch {
						case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil,
							errors.Is(err, batch.ErrOverloaded) && ctx != t.Context(): // its turn would come too late
							gone.Add(1)
						case (err != nil) != (alone != nil), err != nil && !errors.Is(err, model.ErrInvalidInput):
							t.Errorf("%s: error %v, alone %v", r.Version.Name, err, alone)
						case err != nil:
							failed.Add(1)
						default:
							answered.Add(1)
							if d := differ(want, got, subject.tolerance); d != "" {
								t.Errorf("%s/%d: %s", r.Version.Name, r.Version.Number, d)
							}
						}
						for _, out := range got {
							for j := range out.Data {
								out.Data[j] = 0xff
							}
							clear(out.Strings)
							clear(out.Shape)
						}
					}
				})
			}
			calls.Wait()
			runs, requests := w.mergedRuns()
			t.Logf("%d answered, %d failed, %d gone; %d requests in %d merged runs, of which %d failed", answered.Load(), failed.Load(), gone.Load(), requests, runs, w.failed)
			if runs < 20 || w.failed == 0 || failed.Load() == 0 {
				t.Error("too little was merged, or failed, to show anything")
			}
			if w.Running() != 0 || w.Waiting() != 0 {
				t.Errorf("%d run and %d wait at the end", w.Running(), w.Waiting())
			}
		})
	}
}
