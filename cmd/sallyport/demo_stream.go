package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// streamRows sends rows over one stream in batches of size rows and calls each
// with the outputs of every batch as they come; first is the batch's first row.
func streamRows(ctx context.Context, c inferencev1.PredictionServiceClient, model string, rows [][]float32, size int,
	each func(first int, outputs map[string]*inferencev1.Tensor) error,
) (*inferencev1.StreamOpened, error) {
	g, ctx := errgroup.WithContext(ctx)
	s, err := c.PredictStream(ctx)
	if err != nil {
		return nil, err
	}
	open := &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{
		Open: &inferencev1.StreamOpen{Model: model},
	}}
	if err := s.Send(open); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	g.Go(func() error {
		for first := 0; first < len(rows); first += size {
			err := s.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
				Batch: &inferencev1.StreamBatch{
					Sequence: uint64(first), //nolint:gosec // not negative
					Inputs:   features(rows[first:min(first+size, len(rows))]),
				},
			}})
			if errors.Is(err, io.EOF) {
				return nil // Recv says why
			}
			if err != nil {
				return err
			}
		}
		return s.CloseSend()
	})
	var opened *inferencev1.StreamOpened
	g.Go(func() error {
		answered := 0
		for {
			m, err := s.Recv()
			switch {
			case errors.Is(err, io.EOF) && answered*size < len(rows):
				return fmt.Errorf("the stream ended after %d batches", answered)
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			case m.GetOpened() != nil:
				opened = m.GetOpened()
			case m.GetResult().GetStatus() != nil:
				return status.ErrorProto(m.GetResult().GetStatus())
			case m.GetResult() != nil:
				answered++
				if err := each(int(m.GetResult().GetSequence()), m.GetResult().GetOutputs().GetOutputs()); err != nil { //nolint:gosec // the server returns what was sent, and each checks it
					return err
				}
			}
		}
	})
	err = g.Wait()
	return opened, err
}
