package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// openStream opens a stream of batches, as sallyport.Client.Stream does.
type openStream func(context.Context, sallyport.StreamConfig) (*sallyport.Stream, error)

// predictStream sends the rows over a stream, as many batches ahead of the
// answers as the server lets it. A batch that is refused by a quota is sent
// again when the server says, as long as ctx lives; any other refusal ends it.
func predictStream(ctx context.Context, open openStream, r request) (*prediction, error) {
	stream, err := open(ctx, sallyport.StreamConfig{Model: r.model, Version: r.version, Outputs: r.outputs})
	if err != nil {
		return nil, err
	}
	// Whatever ends it early ends the stream.
	defer func() { _ = stream.Close() }()
	opened := stream.Opened()
	if most := opened.GetMaxRows(); most > 0 {
		r.batch = min(r.batch, int(most))
	}
	spans := r.data.spans(r.batch)
	s := &streaming{request: r, spans: spans, parts: make([]map[string]*inferencev1.Tensor, len(spans))}
	if err := s.run(ctx, stream); err != nil {
		return nil, err
	}
	p := &prediction{
		rows: r.data.rows, model: opened.GetModel(), version: opened.GetVersion(), digest: opened.GetDigest(),
		callIDs: stream.CallIDs(),
	}
	return p, p.join(s.parts)
}

type streaming struct {
	request
	spans []span
	// parts has the outputs of each span that was answered; rows is how many rows
	// they have.
	parts []map[string]*inferencev1.Tensor
	rows  int
}

// run sends every span and takes what is answered, until the stream has ended in
// order.
//
// It sends and receives in turn. That cannot lock up: no more batches are under
// way than the stream's window.
func (s *streaming) run(ctx context.Context, stream *sallyport.Stream) error {
	todo := make([]int, len(s.spans))
	for i := range todo {
		todo[i] = i
	}
	window := max(int(stream.Opened().GetWindow()), 1)
	underway := make(map[uint64]int, window) // the span of each sequence
	for {
		if len(todo) > 0 && len(underway) < window {
			sequence, err := stream.Send(s.spans[todo[0]].inputs(s.data))
			if err != nil {
				return err
			}
			underway[sequence] = todo[0]
			todo = todo[1:]
			continue
		}
		if len(underway) == 0 {
			stream.CloseSend()
		}
		result, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		i := underway[result.GetSequence()]
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

// take keeps the outputs of span i. If a quota refused it, take waits for as
// long as the server says and tells to send it again.
func (s *streaming) take(ctx context.Context, i int, result *inferencev1.StreamResult) (again bool, err error) {
	if st := result.GetStatus(); st != nil {
		err := status.ErrorProto(st)
		delay, ok := retryAfter(err)
		if ok && delay > maxPause {
			return false, tooLong(s.spans[i], delay, err)
		}
		if ok && pause(ctx, delay) {
			return true, nil
		}
		return false, fmt.Errorf("%s: %w", s.spans[i], err)
	}
	outputs := result.GetOutputs().GetOutputs()
	if outputs == nil {
		return false, fmt.Errorf("%s: the server answered without outputs", s.spans[i])
	}
	s.parts[i] = outputs
	s.rows += s.spans[i].to - s.spans[i].from
	if s.progress != nil {
		s.progress(s.rows)
	}
	return false, nil
}
