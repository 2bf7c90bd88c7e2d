package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// errDraining says that the server has no time left for a whole stream.
var errDraining = errors.New("the server is stopping and answers no more batches; try again later")

// predictStream sends the rows over a stream, as many batches ahead of the
// answers as the server lets it. A batch that is refused by a quota is sent
// again when the server says, as long as ctx lives; any other refusal ends it.
// What a server did not answer before it stopped goes over a new stream.
func predictStream(ctx context.Context, c inferencev1.PredictionServiceClient, r request) (*prediction, error) {
	// Whatever ends it early ends the stream.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &streaming{request: r, prediction: &prediction{rows: r.data.rows}}
	for s.parts == nil || s.done < len(s.parts) {
		before := s.done
		if err := s.run(ctx, c); err != nil {
			return nil, err
		}
		if s.done == before {
			return nil, errDraining
		}
	}
	return s.prediction, s.prediction.join(s.parts)
}

type streaming struct {
	request
	prediction *prediction
	spans      []span
	// parts has the outputs of each span that was answered; done is how many
	// were, rows how many rows they have.
	parts      []map[string]*inferencev1.Tensor
	done, rows int
}

type predictClient = grpc.BidiStreamingClient[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]

// run opens one stream and sends over it what has not been answered, until all
// is or the server drains.
//
// It sends and receives in turn. That cannot lock up: no more batches are under
// way than the window, and as many the server takes off the wire even while it
// cannot send.
func (s *streaming) run(ctx context.Context, c inferencev1.PredictionServiceClient) error {
	stream, err := c.PredictStream(ctx)
	if err != nil {
		return err
	}
	opened, err := s.open(stream)
	if err != nil {
		return err
	}
	var todo []int
	for i, part := range s.parts {
		if part == nil {
			todo = append(todo, i)
		}
	}
	window := max(int(opened.GetWindow()), 1)
	underway := make(map[uint64]int, window) // the span of each sequence
	draining := false
	for sequence := uint64(1); ; {
		if len(todo) > 0 && len(underway) < window && !draining {
			err := stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{Batch: &inferencev1.StreamBatch{
				Sequence: sequence,
				Inputs:   s.spans[todo[0]].inputs(s.data),
			}}})
			if err != nil && !errors.Is(err, io.EOF) { // of an end Recv knows the reason
				return err
			}
			underway[sequence] = todo[0]
			todo = todo[1:]
			sequence++
			continue
		}
		if len(underway) == 0 {
			return finish(stream)
		}
		answer, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		if answer.GetDraining() != nil {
			draining = true
			continue
		}
		result := answer.GetResult()
		i, ok := underway[result.GetSequence()]
		if !ok {
			return fmt.Errorf("the server answered a batch that was not sent: %d", result.GetSequence())
		}
		delete(underway, result.GetSequence())
		again, err := s.take(ctx, i, result)
		if err != nil {
			return err
		}
		if again {
			todo = append(todo, i)
		}
	}
}

// open opens the stream and learns what the server takes.
func (s *streaming) open(stream predictClient) (*inferencev1.StreamOpened, error) {
	err := stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{Open: &inferencev1.StreamOpen{
		Model:   s.model,
		Version: s.version,
		Outputs: s.outputs,
	}}})
	if err != nil && !errors.Is(err, io.EOF) { // of an end Recv knows the reason
		return nil, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, ended(err)
	}
	opened := answer.GetOpened()
	if opened == nil {
		return nil, errors.New("the server did not open the stream")
	}
	p := s.prediction
	p.model, p.version, p.digest = opened.GetModel(), opened.GetVersion(), opened.GetDigest()
	s.version = p.version
	if header, err := stream.Header(); err == nil {
		p.callIDs = append(p.callIDs, header.Get(interceptors.CallIDHeader)...)
	}
	if s.parts == nil {
		if most := opened.GetMaxRows(); most > 0 {
			s.batch = min(s.batch, int(most))
		}
		s.spans = s.data.spans(s.batch)
		s.parts = make([]map[string]*inferencev1.Tensor, len(s.spans))
	}
	return opened, nil
}

// take keeps the outputs of span i. If a quota refused it, take waits for as
// long as the server says and tells to send it again.
func (s *streaming) take(ctx context.Context, i int, result *inferencev1.StreamResult) (again bool, err error) {
	if st := result.GetStatus(); st != nil {
		err := status.ErrorProto(st)
		if delay, ok := retryAfter(err); ok && pause(ctx, delay) {
			return true, nil
		}
		return false, fmt.Errorf("%s: %w", s.spans[i], err)
	}
	outputs := result.GetOutputs().GetOutputs()
	if outputs == nil {
		return false, fmt.Errorf("%s: the server answered without outputs", s.spans[i])
	}
	s.parts[i] = outputs
	s.done++
	s.rows += s.spans[i].to - s.spans[i].from
	if s.progress != nil {
		s.progress(s.rows)
	}
	return false, nil
}

// finish ends the stream in order, so that its record says that it went well.
func finish(stream predictClient) error {
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// ended is the error of a stream that ended while answers were missing.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the server ended the stream before it answered every batch")
	}
	return err
}
