package server_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// fair is a ground whose callers compete.
type fair struct {
	*ground
	began atomic.Int64 // runs that had to wait and have begun

	mu   sync.Mutex // guards what follows
	runs []wait     // of modest callers
}

// wait is how a run waited for its turn.
type wait struct {
	time   time.Duration
	behind int64 // how many runs of all callers began meanwhile
}

// waitKey is under which the context of a run has its *wait.
type waitKey struct{}

// watched is a scheduler that tells the fair how its runs waited. When together, all
// callers are one, so that runs have their turns in order of arrival: the queue
// before this one.
type watched struct {
	*batch.Scheduler
	fair     *fair
	together bool
}

func (w watched) Run(ctx context.Context, r batch.Request) (map[string]*model.Tensor, time.Duration, error) {
	modest := strings.Contains(r.Caller, "/modest/")
	if w.together {
		r.Caller = "everybody"
	}
	waited := &wait{behind: -w.fair.began.Load()}
	out, ran, err := w.Scheduler.Run(context.WithValue(ctx, waitKey{}, waited), r)
	if waited.time == 0 {
		waited.behind = 0
	}
	if modest {
		w.fair.mu.Lock()
		defer w.fair.mu.Unlock()
		w.fair.runs = append(w.fair.runs, *waited)
	}
	return out, ran, err
}

// waited is told of runs that have their turn.
func (f *fair) waited(ctx context.Context, _ string, d time.Duration) {
	w, _ := ctx.Value(waitKey{}).(*wait)
	w.time = d
	w.behind += f.began.Add(1) - 1
}

// rounds asks the spinning model for a run of n rounds.
func rounds(n int64) *inferencev1.PredictRequest {
	return &inferencev1.PredictRequest{Model: "spinning", Inputs: map[string]*inferencev1.Tensor{
		"n": {DataType: inferencev1.DataType_DATA_TYPE_INT64, Int64Values: []int64{n}},
		"x": {DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{1}, FloatValues: []float32{0}},
	}}
}

// openFair serves the spinning model until close is called, concurrency runs at a
// time.
func openFair(t *testing.T, concurrency int, together bool) (f *fair, closeAll func()) {
	t.Helper()
	f = &fair{}
	// What is shared out here is a queue that nothing but its length bounds.
	cfg := batch.Config{Concurrency: concurrency, MaxDelay: time.Hour, Waited: f.waited}
	f.ground, closeAll = openGround(t, onnxtest.Spinning(t), cfg, func(s *batch.Scheduler) inference.Scheduler {
		return watched{s, f, together}
	})
	return f, closeAll
}
