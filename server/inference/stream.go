package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/server/model"
)

type predictStream = grpc.BidiStreamingServer[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]

// PredictStream runs a model over the batches of a stream.
//
// The RPC's goroutine receives, one goroutine a batch runs, one sends. A place
// in the window is taken before a batch is received and given back after its
// result is sent, so that at most window batches are in memory, whatever the
// caller does.
func (s *Service) PredictStream(stream predictStream) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	var first inferencev1.PredictStreamRequest
	if err := stream.RecvMsg(&first); err != nil {
		if errors.Is(err, io.EOF) {
			return invalid("open", "the first message must open the stream")
		}
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return invalid("open", "the first message must open the stream")
	}
	m, err := s.resolve(ctx, open.GetModel(), open.GetVersion())
	if err != nil {
		return err
	}
	defer m.Release()
	call := interceptors.CallFromContext(ctx)
	err = stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Opened{Opened: &inferencev1.StreamOpened{
		Model:   m.Name,
		Version: m.Number,
		Digest:  m.Digest,
		Window:  uint32(s.window), //nolint:gosec // a small setting
		MaxRows: min(call.MaxRows(), m.Contract.MaxRows()),
	}}})
	if err != nil {
		return err
	}

	b := &batches{
		call:    call,
		model:   m,
		outputs: open.GetOutputs(),
		ordered: open.GetOrdered(),
		service: s,
		window:  make(chan struct{}, s.window),
		queue:   make(chan *batch, s.window),
	}
	sent := make(chan error, 1)
	go func() {
		err := b.send(stream, s.draining)
		if err != nil {
			cancel(err)
		}
		sent <- err
	}()
	err = errors.Join(b.receive(ctx, cancel, stream), <-sent)
	if err != nil && s.isDraining() && stream.Context().Err() != nil {
		return &interceptors.Refusal{Reason: interceptors.Draining, Cause: err}
	}
	return err
}

// batches are the batches of one stream on their way from receive to send.
type batches struct {
	call    *interceptors.Call
	model   *model.Version
	outputs []string
	ordered bool
	service *Service
	window  chan struct{}
	running sync.WaitGroup
	// queue holds the batches in the order in which their results leave. It is
	// as long as the window, so that putting one never blocks.
	queue chan *batch
}

// batch is one batch; done has its result.
type batch struct {
	done chan *inferencev1.StreamResult
}

// receive starts every batch that arrives, until the caller has sent the last.
// When it ends, in whatever way, no batch runs and the queue is closed.
func (b *batches) receive(ctx context.Context, cancel context.CancelCauseFunc, stream predictStream) (err error) {
	defer func() {
		if err != nil {
			cancel(err) // nobody waits for what still runs
		}
		b.running.Wait()
		close(b.queue)
	}()
	last, started := uint64(0), false
	for {
		select {
		case b.window <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		m := &inferencev1.PredictStreamRequest{}
		err := stream.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		in := m.GetBatch()
		if err != nil && (in == nil || !ofBatch(err)) {
			return err
		}
		if in == nil {
			return invalid("open", "only the first message may open the stream")
		}
		if started && in.GetSequence() <= last {
			return invalid("batch.sequence", fmt.Sprintf("must be greater than the one before, %d", last))
		}
		last, started = in.GetSequence(), true
		p := &batch{done: make(chan *inferencev1.StreamResult, 1)}
		if b.ordered {
			b.queue <- p
		}
		b.running.Go(func() {
			if err == nil {
				p.done <- b.run(ctx, in)
			} else {
				p.done <- b.refused(in, err)
			}
			if !b.ordered {
				b.queue <- p
			}
		})
	}
}

// ofBatch tells whether a refusal is of one batch only, so that the stream
// goes on.
func ofBatch(err error) bool {
	var r *interceptors.Refusal
	if !errors.As(err, &r) {
		return false
	}
	switch r.Reason { //nolint:exhaustive // all else ends the stream
	case interceptors.RequestInvalid,
		interceptors.QuotaRequests, interceptors.QuotaRows, interceptors.QuotaBudget, interceptors.QuotaUnavailable:
		return true
	}
	return false
}

func (b *batches) run(ctx context.Context, in *inferencev1.StreamBatch) (result *inferencev1.StreamResult) {
	defer func() {
		if p := recover(); p != nil {
			result = b.failed(in, interceptors.Panicked(p))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, b.service.batchTimeout)
	defer cancel()
	outputs, err := run(ctx, b.model, in.GetInputs(), b.outputs)
	if err != nil {
		return b.failed(in, err)
	}
	return &inferencev1.StreamResult{
		Sequence: in.GetSequence(),
		Result:   &inferencev1.StreamResult_Outputs{Outputs: &inferencev1.StreamOutputs{Outputs: outputs}},
	}
}

// refused is the result of a batch that a gate refused. The quota took its
// rows before its rules were checked, and nothing if it was the one to refuse.
func (b *batches) refused(in *inferencev1.StreamBatch, err error) *inferencev1.StreamResult {
	if b.call.Status(err).Code() == codes.InvalidArgument {
		b.call.NotRun(claimedRows(in.GetInputs()))
	}
	return b.failed(in, err)
}

// failed is the result of a batch that has no outputs.
func (b *batches) failed(in *inferencev1.StreamBatch, err error) *inferencev1.StreamResult {
	b.call.Refused(err)
	return &inferencev1.StreamResult{
		Sequence: in.GetSequence(),
		Result:   &inferencev1.StreamResult_Status{Status: b.call.Status(err).Proto()},
	}
}

// send sends the results until the queue is closed, and the announcement that
// the server drains in between.
func (b *batches) send(stream predictStream, draining <-chan struct{}) error {
	for {
		select {
		case p, ok := <-b.queue:
			if !ok {
				return nil
			}
			result := <-p.done
			err := stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: result}})
			if err != nil {
				return err
			}
			<-b.window
		case <-draining:
			draining = nil
			err := stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Draining{Draining: &inferencev1.StreamDraining{}}})
			if err != nil {
				return err
			}
		}
	}
}
