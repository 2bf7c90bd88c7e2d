package inference_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/model"
)

// bare is what a stream costs without anything of ours but the model: it receives,
// runs, sends.
type bare struct {
	inferencev1.UnimplementedPredictionServiceServer
	model *model.Version
}

func (s bare) PredictStream(stream inferencev1.PredictionService_PredictStreamServer) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if in.GetOpen() != nil {
			err = stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Opened{Opened: &inferencev1.StreamOpened{Window: window}}})
			if err != nil {
				return err
			}
			continue
		}
		inputs := make(map[string]*model.Tensor)
		for name, t := range in.GetBatch().GetInputs() {
			inputs[name] = &model.Tensor{DType: model.Float32, Shape: t.GetShape(), Data: t.GetRaw()}
		}
		got, err := s.model.Runner.Run(stream.Context(), inputs, nil)
		if err != nil {
			return err
		}
		outputs := make(map[string]*inferencev1.Tensor)
		for name, t := range got {
			out := &inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: t.Shape, Raw: t.Data}
			if t.DType == model.Int64 {
				out.DataType = inferencev1.DataType_DATA_TYPE_INT64
			}
			outputs[name] = out
		}
		err = stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: &inferencev1.StreamResult{
			Sequence: in.GetBatch().GetSequence(),
			Result:   &inferencev1.StreamResult_Outputs{Outputs: &inferencev1.StreamOutputs{Outputs: outputs}},
		}}})
		if err != nil {
			return err
		}
	}
}

// BenchmarkStream sends batches on an open stream, window of them ahead of the
// results, through every gate and through a bare grpc-go server with the same
// credentials, model and payload. The two take turns; client and server share the
// machine. "speed" is the bare time over the other, 1 is as fast; "cpu" is the same
// of the processor time of client and server, which others on the machine disturb
// less.
func BenchmarkStream(b *testing.B) {
	w := newWorld(b, worldConfig{records: inMemory(b)})
	m, err := w.models.Acquire("breast-cancer", 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(m.Release)
	lis, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(w.credentials(b)))
	inferencev1.RegisterPredictionServiceServer(srv, bare{model: m})
	go func() { _ = srv.Serve(lis) }()
	b.Cleanup(srv.Stop)
	for _, rows := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			o := &inferencev1.StreamOpen{Model: "breast-cancer"}
			gated, plain := open(ctx, b, w.dial(b, w.address), o), open(ctx, b, w.dial(b, lis.Addr().String()), o)
			request := batch(0, breastCancer(rows))
			const batches = 200 // in a turn
			sequence := uint64(0)
			turn := func(stream clientStream) (wall, cpu time.Duration) {
				start, used := time.Now(), processorTime(b)
				sent := make(chan error, 1)
				ahead := make(chan struct{}, window)
				go func() {
					for i := range uint64(batches) {
						ahead <- struct{}{}
						request.GetBatch().Sequence = sequence + i + 1
						if err := stream.Send(request); err != nil {
							sent <- err
							return
						}
					}
					sent <- nil
				}()
				receive(b, stream, batches, func(r *inferencev1.StreamResult) {
					if r.GetOutputs() == nil {
						b.Errorf("got %.100v", r)
					}
					<-ahead
				})
				if err := <-sent; err != nil {
					b.Fatal(err)
				}
				return time.Since(start), processorTime(b) - used
			}
			turn(gated)
			turn(plain)
			var with, without, withCPU, withoutCPU time.Duration
			for b.Loop() {
				sequence += batches
				wall, cpu := turn(gated)
				with, withCPU = with+wall, withCPU+cpu
				wall, cpu = turn(plain)
				without, withoutCPU = without+wall, withoutCPU+cpu
			}
			n := float64(b.N * batches)
			b.ReportMetric(float64(without)/float64(with), "speed")
			b.ReportMetric(float64(with)/n, "gated-ns/batch")
			b.ReportMetric(float64(without)/n, "bare-ns/batch")
			b.ReportMetric(float64(withoutCPU)/float64(withCPU), "cpu")
			b.ReportMetric(float64(withCPU-withoutCPU)/n, "more-cpu-ns/batch")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// processorTime is what the process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
