package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/server/model"
)

type predictStream = grpc.BidiStreamingServer[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]

// PredictStream runs a model over the batches of a stream.
//
// A stream that waits for a batch costs the RPC's goroutine and no other. A place
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
		service: s,
		model:   m,
		outputs: open.GetOutputs(),
		cancel:  cancel,
		results: newResults(stream, s.window, open.GetOrdered(), cancel),
	}
	s.streams.add(b)
	err = b.receive(ctx, stream)
	s.streams.remove(b)
	if err != nil {
		cancel(err) // nobody waits for what still runs
	}
	b.running.Wait()
	err = errors.Join(err, b.results.err())
	if err != nil && s.isDraining() && stream.Context().Err() != nil {
		return &interceptors.Refusal{Reason: interceptors.Draining, Cause: err}
	}
	return err
}

// batches are the batches of one stream.
type batches struct {
	call    *interceptors.Call
	service *Service
	model   *model.Version
	outputs []string
	cancel  context.CancelCauseFunc
	results *results
	running sync.WaitGroup // of the goroutines beside the RPC's
	prompt  prompt
}

// receive runs every batch that arrives, until the caller has sent the last. When
// it ends, others may still run.
func (b *batches) receive(ctx context.Context, stream predictStream) error {
	last := uint64(0)
	for place := uint64(0); ; place++ {
		if err := b.results.reserve(ctx); err != nil {
			return err
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
		if place > 0 && in.GetSequence() <= last {
			return invalid("batch.sequence", fmt.Sprintf("must be greater than the one before, %d", last))
		}
		last = in.GetSequence()
		switch rows := claimedRows(in.GetInputs()); {
		case err != nil:
			b.results.deliver(place, b.refused(in, err))
		case b.prompt.expected(rows):
			b.results.deliver(place, b.run(ctx, in, rows))
		default:
			b.running.Go(func() { b.results.deliver(place, b.run(ctx, in, rows)) })
		}
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

func (b *batches) run(ctx context.Context, in *inferencev1.StreamBatch, rows int64) (result *inferencev1.PredictStreamResponse) {
	defer func() {
		if p := recover(); p != nil {
			result = b.failed(in, interceptors.Panicked(p))
		}
	}()
	limited := &lateContext{Context: ctx, start: time.Now(), limit: b.service.batchTimeout}
	outputs, err := b.service.run(limited, b.model, in.GetInputs(), b.outputs, true)
	b.prompt.took(rows, time.Since(limited.start))
	limited.end()
	if err != nil {
		return b.failed(in, err)
	}
	return outputsOf(in.GetSequence(), outputs)
}

// refused is the result of a batch that a gate refused. The quota took its
// rows before its rules were checked, and nothing if it was the one to refuse.
func (b *batches) refused(in *inferencev1.StreamBatch, err error) *inferencev1.PredictStreamResponse {
	if b.call.Status(err).Code() == codes.InvalidArgument {
		b.call.NotRun(claimedRows(in.GetInputs()))
	}
	return b.failed(in, err)
}

// failed is the result of a batch that has no outputs.
func (b *batches) failed(in *inferencev1.StreamBatch, err error) *inferencev1.PredictStreamResponse {
	b.call.Refused(err)
	return statusOf(in.GetSequence(), b.call.Status(err).Proto())
}
