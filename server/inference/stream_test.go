package inference_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// TestOrderOfResults sends a batch that takes long and others that do not. Ordered,
// they wait for it; unordered they come although it never ends.
func TestOrderOfResults(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one run at a time: the others wait for it in either case")
	}
	w := newWorld(t, worldConfig{models: onnxtest.Spinning(t)})
	client := w.dial(t, w.address)
	for _, ordered := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		stream := open(ctx, t, client, &inferencev1.StreamOpen{Model: "spinning", Ordered: ordered})
		long, want := int64(300_000), []uint64{1, 2, 3}
		if !ordered {
			long, want = forever, []uint64{2, 3}
		}
		var got []uint64
		for i, n := range []int64{long, 1, 1} {
			if err := stream.Send(batch(uint64(i+1), rounds(n))); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		receive(t, stream, len(want), func(r *inferencev1.StreamResult) {
			if r.GetOutputs() == nil {
				t.Errorf("batch %d: %v", r.GetSequence(), r.GetStatus().GetMessage())
			}
			got = append(got, r.GetSequence())
		})
		if !ordered {
			slices.Sort(got) // of those two
		} else if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("then: %v", err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("ordered %v: results came as %v, want %v", ordered, got, want)
		}
		cancel()
	}
}

// TestEveryBatchIsAnsweredOnce sends batches of all sizes, of which some are wrong,
// on streams of both kinds at once, and compares the answers with what each batch
// is to get.
func TestEveryBatchIsAnsweredOnce(t *testing.T) {
	w := newWorld(t, worldConfig{})
	client := w.dial(t, w.address)
	const batches, streams = 200, 4
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan struct{}, streams)
	for i := range streams {
		ordered := i%2 == 0
		stream := open(ctx, t, client, &inferencev1.StreamOpen{Model: "breast-cancer", Ordered: ordered, Outputs: []string{"probabilities"}})
		rows := func(sequence uint64) int { return int(sequence*7919%5) * 37 } // none now and then, which is refused
		go func() {
			for sequence := range uint64(batches) {
				if stream.Send(batch(sequence, breastCancer(rows(sequence)))) != nil {
					return
				}
			}
			_ = stream.CloseSend()
		}()
		go func() {
			defer func() { done <- struct{}{} }()
			seen := make(map[uint64]bool)
			for n := uint64(0); ; n++ {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Error(err)
					return
				}
				r := m.GetResult()
				sequence := r.GetSequence()
				if seen[sequence] || ordered && sequence != n {
					t.Errorf("result %d is of batch %d", n, sequence)
				}
				seen[sequence] = true
				shape := r.GetOutputs().GetOutputs()["probabilities"].GetShape()
				switch want := rows(sequence); {
				case want == 0:
					if codes.Code(r.GetStatus().GetCode()) != codes.InvalidArgument {
						t.Errorf("batch %d of no rows: %v", sequence, r.GetStatus())
					}
				case len(shape) != 2 || shape[0] != int64(want):
					t.Errorf("batch %d of %d rows: an output of shape %v, %v", sequence, want, shape, r.GetStatus())
				}
			}
			if len(seen) != batches {
				t.Errorf("%d of %d batches were answered", len(seen), batches)
			}
		}()
	}
	for range streams {
		<-done
	}
}

// TestBatchThatTakesTooLong is ended and answered, and the stream goes on.
func TestBatchThatTakesTooLong(t *testing.T) {
	w := newWorld(t, worldConfig{models: onnxtest.Spinning(t), timeout: 2 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream := open(ctx, t, w.dial(t, w.address), &inferencev1.StreamOpen{Model: "spinning"})
	for sequence := uint64(1); sequence <= 5; sequence++ {
		n := int64(1)
		if sequence == 4 { // after some that were prompt
			n = forever
		}
		if err := stream.Send(batch(sequence, rounds(n))); err != nil {
			t.Fatal(err)
		}
		receive(t, stream, 1, func(r *inferencev1.StreamResult) {
			code := codes.Code(r.GetStatus().GetCode())
			if r.GetSequence() != sequence || (code == codes.DeadlineExceeded) != (n == forever) {
				t.Errorf("batch %d: %v", sequence, r)
			}
		})
	}
}

// TestCancelledStreamStopsTheModel takes every turn for ever, gives up, and finds
// the turns free.
func TestCancelledStreamStopsTheModel(t *testing.T) {
	w := newWorld(t, worldConfig{models: onnxtest.Spinning(t)})
	client := w.dial(t, w.address)
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 {
		stream := open(ctx, t, client, &inferencev1.StreamOpen{Model: "spinning"})
		for sequence := range uint64(window) {
			if err := stream.Send(batch(sequence, rounds(forever))); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	spins(t, client)
}

// spins waits until the spinning model answers: as long as the runs before have not
// been stopped, a call is refused.
func spins(t *testing.T, client inferencev1.PredictionServiceClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	eventually(t, "a call is answered", func() bool {
		_, err := client.Predict(ctx, &inferencev1.PredictRequest{Model: "spinning", Inputs: rounds(1)})
		if err != nil && status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
		return err == nil
	})
}

// TestDrainIsAnnounced on streams that wait, that run and that do not read. What
// runs is answered.
func TestDrainIsAnnounced(t *testing.T) {
	w := newWorld(t, worldConfig{models: onnxtest.Spinning(t), drain: patience})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o := &inferencev1.StreamOpen{Model: "spinning", Ordered: true}
	waiting, running := open(ctx, t, w.dial(t, w.address), o), open(ctx, t, w.dial(t, w.address), o)
	deaf := w.attack(t, noWindow)
	stream := deaf.open()
	deaf.send(stream, false, encoded(t, opening("spinning")))
	for sequence := range uint64(2 * window) {
		deaf.send(stream, false, encoded(t, batch(sequence, rounds(1))))
	}
	if err := running.Send(batch(1, rounds(300_000))); err != nil {
		t.Fatal(err)
	}
	// One that is refused; it waits for the first.
	if err := running.Send(batch(2, nil)); err != nil {
		t.Fatal(err)
	}
	w.stop()
	m, err := waiting.Recv()
	if err != nil || m.GetDraining() == nil {
		t.Errorf("waiting: got %v and %v, want an announcement", m, err)
	}
	var announced, answered int
	for range 3 {
		m, err := running.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetDraining() != nil {
			announced++
		} else if m.GetResult() != nil {
			answered++
		}
	}
	if announced != 1 || answered != 2 {
		t.Errorf("running: %d announcements and %d results, want 1 and 2", announced, answered)
	}
	for _, s := range []clientStream{waiting, running} {
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	}
	deaf.reset(stream)
	select {
	case <-w.done:
	case <-ctx.Done():
		t.Error("the server does not end")
	}
}
