package server_test

import (
	"context"
	"testing"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// On record, and so in budgets, model time is what the model ran for a call: not what
// it waited for its turn.
func TestWaitingIsNotModelTime(t *testing.T) {
	const wait = 300 * time.Millisecond
	var scheduler *batch.Scheduler
	g, closeAll := openGround(t, onnxtest.Spinning(t), batch.Config{Concurrency: 1, MaxDelay: time.Hour}, func(s *batch.Scheduler) inference.Scheduler {
		scheduler = s
		return s
	})
	dial := func(path string) (call func(context.Context, int64) error, hangUp func()) {
		client, hangUp := g.dial(t, identitytest.NewSource(g.ca.SVID(t, path), g.ca.Bundle()), rounds(shortRun))
		return func(ctx context.Context, n int64) error {
			_, err := client.Predict(ctx, rounds(n))
			return err
		}, hangUp
	}
	long, hangUp := dial("/long")
	defer hangUp()
	short, hangUp := dial("/short")
	defer hangUp()

	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- long(ctx, 1<<40) }()
	until(t, func() bool { return scheduler.Running() == 1 })
	answered := make(chan error, 1)
	go func() { answered <- short(t.Context(), shortRun) }()
	until(t, func() bool { return scheduler.Waiting() == 1 })
	time.Sleep(wait) // for which it waits at the least
	end()
	if err := <-ended; err == nil {
		t.Error("the run that was to be cut off has ended by itself")
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	closeAll()

	var last *auditv1.Record // of the caller that waited
	var cut *auditv1.Record
	for r, err := range (audit.View{Dir: g.dir}).Records(context.Background(), 1) {
		switch {
		case err != nil:
			t.Fatal(err)
		case r.GetCaller().GetSpiffeId() == "spiffe://sallyport.test/short":
			last = r
		case r.GetCaller().GetSpiffeId() == "spiffe://sallyport.test/long":
			cut = r
		}
	}
	took, ran := last.GetDuration().AsDuration(), last.GetModelDuration().AsDuration()
	if took < wait || ran <= 0 || ran > took-wait {
		t.Errorf("of %v, %v of which it waited, the model ran for %v", took, wait, ran)
	}
	if last.GetRowsRun() != 1 {
		t.Errorf("%d rows ran", last.GetRowsRun())
	}
	// Who is cut off pays for what has run.
	if ran := cut.GetModelDuration().AsDuration(); ran < wait {
		t.Errorf("the run that was cut off ran for %v", ran)
	}
}

// until waits for a condition that another goroutine brings about.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to that in a minute")
		}
	}
}
