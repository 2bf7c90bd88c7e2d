package main

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

type serverStream = grpc.BidiStreamingServer[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]

// streamsOf opens streams over a connection of the test's own.
func streamsOf(conn grpc.ClientConnInterface) openStream {
	return func(ctx context.Context, cfg sallyport.StreamConfig) (*sallyport.Stream, error) {
		return sallyport.OpenStream(ctx, conn, cfg)
	}
}

// accept receives the opening message and answers it.
func accept(stream serverStream, window uint32, maxRows int64) (*inferencev1.StreamOpen, error) {
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if first.GetOpen() == nil {
		return nil, errors.New("the first message does not open the stream")
	}
	if err := stream.SetHeader(metadata.Pairs(interceptors.CallIDHeader, "id")); err != nil {
		return nil, err
	}
	return first.GetOpen(), stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Opened{
		Opened: &inferencev1.StreamOpened{Model: "m", Version: 7, Digest: "sha256:00", Window: window, MaxRows: maxRows},
	}})
}

func answer(b *inferencev1.StreamBatch) *inferencev1.PredictStreamResponse {
	return &inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: &inferencev1.StreamResult{
		Sequence: b.GetSequence(),
		Result:   &inferencev1.StreamResult_Outputs{Outputs: &inferencev1.StreamOutputs{Outputs: echo(b.GetInputs())}},
	}}}
}

func refuse(b *inferencev1.StreamBatch, err error) *inferencev1.PredictStreamResponse {
	return &inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: &inferencev1.StreamResult{
		Sequence: b.GetSequence(),
		Result:   &inferencev1.StreamResult_Status{Status: status.Convert(err).Proto()},
	}}}
}

var draining = &inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Draining{Draining: &inferencev1.StreamDraining{}}}

// Batches fill the window and no more, are cut to what the caller may send, and
// may be answered in any order.
func TestPredictStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window, maxRows = 3, 4
		c := serveInMemory(t, &scriptedServer{stream: func(stream serverStream) error {
			open, err := accept(stream, window, maxRows)
			if err != nil {
				return err
			}
			if open.GetModel() != "m" || open.GetVersion() != 5 || !slices.Equal(open.GetOutputs(), []string{"y"}) {
				return status.Errorf(codes.InvalidArgument, "opened with %v", open)
			}
			batches := make(chan *inferencev1.StreamBatch)
			go func() {
				defer close(batches)
				for {
					m, err := stream.Recv()
					if err != nil {
						return
					}
					batches <- m.GetBatch()
				}
			}()
			last := uint64(0)
			for {
				var waiting []*inferencev1.StreamBatch
				synctest.Wait() // until the client sends no more without an answer
				for b := range next(batches) {
					if b.GetSequence() <= last {
						return status.Error(codes.InvalidArgument, "sequence does not increase")
					}
					last = b.GetSequence()
					if n := b.GetInputs()["x"].GetShape()[0]; n > maxRows {
						return status.Errorf(codes.InvalidArgument, "%d rows", n)
					}
					waiting = append(waiting, b)
					synctest.Wait()
				}
				if len(waiting) == 0 {
					return nil // the client has closed its side
				}
				// The 42 rows are 11 batches: 3, 3, 3 and 2.
				if want := min(window, 11-int(last)+len(waiting)); len(waiting) != want {
					return status.Errorf(codes.InvalidArgument, "%d batches under way, want %d", len(waiting), want)
				}
				for _, b := range slices.Backward(waiting) {
					if err := stream.Send(answer(b)); err != nil {
						return err
					}
				}
			}
		}})
		done := 0
		p, err := predictStream(t.Context(), streamsOf(c), request{
			model: "m", version: 5, outputs: []string{"y"}, data: numbers(t, 42), batch: 100,
			progress: func(n int) {
				if n <= done {
					t.Errorf("progress goes from %d to %d", done, n)
				}
				done = n
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		counted(t, p, 42)
		if done != 42 {
			t.Errorf("progress ends at %d", done)
		}
		if p.model != "m" || p.version != 7 || p.digest != "sha256:00" || !slices.Equal(p.callIDs, []string{"id"}) {
			t.Errorf("%+v", p)
		}
	})
}

// next yields what can be received without waiting.
func next[T any](c <-chan T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for {
			select {
			case v, ok := <-c:
				if !ok || !yield(v) {
					return
				}
			default:
				return
			}
		}
	}
}

// A client that only sends while the server can only send would lock both up.
func TestPredictStreamLargeAnswers(t *testing.T) {
	c := serveInMemory(t, &scriptedServer{stream: func(stream serverStream) error {
		if _, err := accept(stream, 2, 0); err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			// Larger than the windows of flow control.
			a := answer(m.GetBatch())
			a.GetResult().GetOutputs().GetOutputs()["filler"] = &inferencev1.Tensor{DataType: uint8s, Shape: []int64{1, 1 << 20}, Raw: make([]byte, 1<<20)}
			if err := stream.Send(a); err != nil {
				return err
			}
		}
	}})
	p, err := predictStream(t.Context(), streamsOf(c), request{model: "m", data: numbers(t, 20), batch: 1})
	if err != nil {
		t.Fatal(err)
	}
	counted(t, p, 20)
}

func TestPredictStreamResends(t *testing.T) {
	refused := false
	streams := 0
	c := serveInMemory(t, &scriptedServer{stream: func(stream serverStream) error {
		streams++
		open, err := accept(stream, 2, 0)
		if err != nil {
			return err
		}
		if streams == 2 && open.GetVersion() != 7 {
			return status.Errorf(codes.InvalidArgument, "opened again with version %d", open.GetVersion())
		}
		for n := 1; ; n++ {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			a := answer(m.GetBatch())
			if !refused && integers(m.GetBatch().GetInputs()["x"])[0] == 2 {
				refused = true
				a = refuse(m.GetBatch(), overQuota(t, time.Millisecond))
			}
			if err := stream.Send(a); err != nil {
				return err
			}
			if streams == 1 && n == 4 {
				if err := stream.Send(draining); err != nil {
					return err
				}
			}
		}
	}})
	p, err := predictStream(t.Context(), streamsOf(c), request{model: "m", data: numbers(t, 20), batch: 2})
	if err != nil {
		t.Fatal(err)
	}
	counted(t, p, 20)
	if !refused || streams != 2 || len(p.callIDs) != 2 {
		t.Errorf("refused %v, %d streams, calls %v", refused, streams, p.callIDs)
	}
}

func TestPredictStreamRefused(t *testing.T) {
	// each answers the first batch and then returns.
	each := func(f func(serverStream, *inferencev1.StreamBatch) error) func(serverStream) error {
		return func(stream serverStream) error {
			if _, err := accept(stream, 2, 0); err != nil {
				return err
			}
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			return f(stream, m.GetBatch())
		}
	}
	for _, tt := range []struct {
		name   string
		stream func(serverStream) error
		want   string
	}{
		{
			"the stream itself",
			func(serverStream) error { return refusal(t, codes.PermissionDenied, "no", reason("POLICY_DENIED")) },
			"PERMISSION_DENIED (POLICY_DENIED): no",
		},
		{
			"one batch",
			each(func(s serverStream, b *inferencev1.StreamBatch) error {
				if err := s.Send(refuse(b, refusal(t, codes.InvalidArgument, "bad", reason("CONTRACT_VIOLATED")))); err != nil {
					return err
				}
				<-s.Context().Done()
				return nil
			}),
			"rows 1 to 2: INVALID_ARGUMENT (CONTRACT_VIOLATED): bad",
		},
		{
			"no time to wait for the quota",
			each(func(s serverStream, b *inferencev1.StreamBatch) error {
				if err := s.Send(refuse(b, overQuota(t, 2*time.Minute))); err != nil {
					return err
				}
				<-s.Context().Done()
				return nil
			}),
			"rows 1 to 2: RESOURCE_EXHAUSTED (QUOTA_ROWS)",
		},
		{
			"a quota that takes longer than anyone waits",
			each(func(s serverStream, b *inferencev1.StreamBatch) error {
				if err := s.Send(refuse(b, overQuota(t, time.Hour))); err != nil {
					return err
				}
				<-s.Context().Done()
				return nil
			}),
			"rows 1 to 2: a command waits 5m0s for a quota at most, and this takes 1h0m0s: RESOURCE_EXHAUSTED (QUOTA_ROWS)",
		},
		{
			"in the middle",
			each(func(serverStream, *inferencev1.StreamBatch) error {
				return refusal(t, codes.Unauthenticated, "expired", reason("IDENTITY_EXPIRED"))
			}),
			"UNAUTHENTICATED (IDENTITY_EXPIRED): expired",
		},
		{
			"ended too early",
			each(func(serverStream, *inferencev1.StreamBatch) error { return nil }),
			"the server ended the stream before it answered every batch",
		},
		{
			"not opened",
			func(s serverStream) error { return s.Send(draining) },
			"the server did not open the stream",
		},
		{
			"answer to nothing",
			each(func(s serverStream, b *inferencev1.StreamBatch) error {
				b.Sequence += 100
				return s.Send(answer(b))
			}),
			"the server answered a batch that was not sent: 101",
		},
		{
			"answer without outputs",
			each(func(s serverStream, b *inferencev1.StreamBatch) error {
				a := answer(b)
				a.GetResult().Result = nil
				return s.Send(a)
			}),
			"the server answered batch 1 with neither outputs nor an error",
		},
		{
			"answer with no output",
			each(func(s serverStream, b *inferencev1.StreamBatch) error {
				a := answer(b)
				a.GetResult().Result = &inferencev1.StreamResult_Outputs{Outputs: &inferencev1.StreamOutputs{}}
				return s.Send(a)
			}),
			"rows 1 to 2: the server answered without outputs",
		},
		{
			"always draining",
			func(s serverStream) error {
				if _, err := accept(s, 1, 0); err != nil {
					return err
				}
				m, err := s.Recv()
				if err != nil {
					return err
				}
				if err := s.Send(draining); err != nil {
					return err
				}
				if err := s.Send(refuse(m.GetBatch(), overQuota(t, time.Millisecond))); err != nil {
					return err
				}
				_, err = s.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			},
			"UNAVAILABLE: the server is stopping and answers no more batches",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // for the waits before it gives up
				c := serveInMemory(t, &scriptedServer{stream: tt.stream})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := predictStream(ctx, streamsOf(c), request{model: "m", data: numbers(t, 4), batch: 2})
				if text := errText(classify(err)); !strings.HasPrefix(text, tt.want) {
					t.Errorf("error %q, want %q", text, tt.want)
				}
			})
		})
	}
}
