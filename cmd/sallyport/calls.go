package main

import (
	"context"
	"fmt"
	"maps"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// maxBatchBytes keeps what one message carries below the 4 MiB that gRPC servers
// take unless told otherwise.
const maxBatchBytes = 3 << 20

// request is a prediction over a dataset.
type request struct {
	model string
	// version is 0 for the model's default.
	version int64
	// outputs to ask for; empty for all.
	outputs []string
	data    *dataset
	// batch is the most rows in one call or batch, at least 1. A stream may have
	// to use less.
	batch int
	// progress, if not nil, is told how many rows were answered, after every
	// batch.
	progress func(done int)
}

// batchSize is how many rows to send at once: as many as wanted, or as fit if
// wanted is 0; modelMax is what the model takes, 0 if that is not known.
func batchSize(d *dataset, wanted int, modelMax int64) int {
	if wanted > 0 || d.rows == 0 {
		return max(wanted, 1)
	}
	size := 0
	for name, t := range d.inputs {
		size += len(name) + proto.Size(t)
	}
	n := min(d.rows, maxBatchBytes/(1+size/d.rows))
	if modelMax > 0 {
		n = min(n, int(modelMax))
	}
	return max(n, 1)
}

// span is a range of rows, to excluded.
type span struct{ from, to int }

func (s span) String() string { return fmt.Sprintf("rows %d to %d", s.from+1, s.to) }

// spans cuts the dataset into batches.
func (d *dataset) spans(batch int) []span {
	if d.rows == 0 {
		return []span{{}}
	}
	var out []span
	for from := 0; from < d.rows; from += batch {
		out = append(out, span{from, min(from+batch, d.rows)})
	}
	return out
}

// inputs are the inputs of one batch; they share memory with the dataset.
func (s span) inputs(d *dataset) map[string]*inferencev1.Tensor {
	if d.rows == 0 || s == (span{0, d.rows}) {
		return d.inputs
	}
	return tensor.Cut(d.inputs, s.from, s.to)
}

// predictCalls sends the rows in as many calls as it takes, one after the other.
// If they are several, all run on the version of the first, and one that is
// refused by a quota is made again when the server says, as long as ctx lives.
func predictCalls(ctx context.Context, c inferencev1.PredictionServiceClient, r request) (*prediction, error) {
	spans := r.data.spans(r.batch)
	p := &prediction{rows: r.data.rows}
	parts := make([]map[string]*inferencev1.Tensor, 0, len(spans))
	for i := 0; i < len(spans); {
		var header metadata.MD
		answer, err := c.Predict(ctx, &inferencev1.PredictRequest{
			Model:   r.model,
			Version: r.version,
			Inputs:  spans[i].inputs(r.data),
			Outputs: r.outputs,
		}, grpc.Header(&header))
		if err != nil && len(spans) > 1 {
			delay, ok := retryAfter(err)
			if ok && delay > maxPause {
				return nil, tooLong(spans[i], delay, err)
			}
			if ok && pause(ctx, delay) {
				continue
			}
			return nil, fmt.Errorf("%s: %w", spans[i], err)
		}
		if err != nil {
			return nil, err
		}
		p.model, p.version, p.digest = answer.GetModel(), answer.GetVersion(), answer.GetDigest()
		r.version = p.version
		p.callIDs = append(p.callIDs, header.Get(interceptors.CallIDHeader)...)
		parts = append(parts, answer.GetOutputs())
		if r.progress != nil {
			r.progress(spans[i].to)
		}
		i++
	}
	return p, p.join(parts)
}

// maxPause is the longest that a command waits for a quota by itself: a bucket
// refills in that time, a budget that is used up does not.
const maxPause = 5 * time.Minute

// tooLong is the error of rows for which a command would have to wait longer.
func tooLong(rows span, delay time.Duration, err error) error {
	return fmt.Errorf("%s: a command waits %v for a quota at most, and this takes %s: %w", rows, maxPause, seconds(delay), err)
}

// pause waits for d and tells whether that left time to go on.
func pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// join makes the outputs of all batches, in their order, those of the whole.
func (p *prediction) join(parts []map[string]*inferencev1.Tensor) error {
	for _, part := range parts {
		for name, t := range part {
			if err := tensor.Check(t); err != nil {
				return fmt.Errorf("the server's answer is not usable: output %q: %w", name, err)
			}
		}
		if !maps.EqualFunc(part, parts[0], func(_, _ *inferencev1.Tensor) bool { return true }) {
			return fmt.Errorf("the server's answer is not usable: batches differ in their outputs")
		}
	}
	p.outputs = parts[0]
	if len(parts) == 1 {
		return nil
	}
	whole := make(map[string]*inferencev1.Tensor, len(parts[0]))
	for name, t := range parts[0] {
		if p.isLabels(name) {
			whole[name] = t
			continue
		}
		var of []*inferencev1.Tensor
		for _, part := range parts {
			of = append(of, part[name])
		}
		var err error
		if whole[name], err = tensor.Join(of); err != nil {
			return fmt.Errorf("output %q: %w", name, err)
		}
	}
	p.outputs = whole
	return nil
}
