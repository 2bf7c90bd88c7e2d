package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Callers that set no deadline and do not go on are not waited for.
func TestDeadlineOfTheServer(t *testing.T) {
	s := startServe(t, newSite(t, "bounds: {max_call_duration: 0.5s, max_stream_duration: 2s}\n"))
	bidi := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	for _, tt := range []struct {
		name string
		call func(context.Context, *caller) error
	}{
		{"a call without its request", func(ctx context.Context, c *caller) error {
			_, err := c.conn.NewStream(ctx, bidi, inferencev1.PredictionService_Predict_FullMethodName)
			return err
		}},
		{"a stream that is not opened", func(ctx context.Context, c *caller) error {
			_, err := c.conn.NewStream(ctx, bidi, inferencev1.PredictionService_PredictStream_FullMethodName)
			return err
		}},
		{"a stream without batches", func(ctx context.Context, c *caller) error {
			_, _, err := c.open(ctx, breastCancer)
			return err
		}},
		{"a stream whose results are not read", func(ctx context.Context, c *caller) error {
			stream, _, err := c.open(ctx, breastCancer)
			for sequence := uint64(1); err == nil && sequence < 200; sequence++ {
				err = stream.Send(batch(sequence, 4096))
			}
			if errors.Is(err, io.EOF) {
				return nil // the stream has ended, as it should
			}
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			before, c := len(s.calls(t)), s.as(t, "clinic")
			called := make(chan error, 1)
			go func() { called <- tt.call(ctx, c) }()
			err := within(patience, func() error {
				if calls := s.calls(t)[before:]; !slices.Equal(calls, []string{"DeadlineExceeded"}) {
					return fmt.Errorf("calls on record: %v", calls)
				}
				return nil
			})
			cancel()
			if err := errors.Join(err, <-called); err != nil {
				t.Error(err)
			}
		})
	}
}
