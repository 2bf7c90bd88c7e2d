package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/bench/target"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// check fails unless every peer answers as Sallyport does and refuses what it
// should: only then do they do the same work.
func (r *run) check(ctx context.Context) error {
	for _, c := range []struct {
		model string
		rows  int
	}{{first, 1}, {first, 64}, {first, 4096}, {second, 1}, {second, 4096}} {
		request, err := target.NewRequest(c.model, c.rows)
		if err != nil {
			return err
		}
		var want *Answer
		for _, p := range r.peers {
			got, err := p.answer(ctx, question{bench, c.model, request.Inputs["features"]})
			if err != nil {
				return err
			}
			if len(got.Labels) != c.rows {
				return fmt.Errorf("%s answers %d rows of %d", p.name, len(got.Labels), c.rows)
			}
			if want == nil {
				want = got
			}
			if err := want.same(got); err != nil {
				return fmt.Errorf("%s answers %d rows of %s unlike %s: %w", p.name, c.rows, c.model, r.peers[0].name, err)
			}
		}
	}
	for _, model := range []string{first, second} {
		request, err := target.NewRequest(model, 1)
		if err != nil {
			return err
		}
		good := request.Inputs["features"]
		questions := map[string]question{
			"a stranger":             {stranger, model, good},
			"a number out of range":  {bench, model, with(good, 0, 1e9)},
			"what is not a number":   {bench, model, with(good, 0, float32(math.NaN()))},
			"rows without a feature": {bench, model, narrower(good)},
		}
		if model == second {
			questions["a caller that may not call the model"] = question{narrow, model, good}
		}
		for what, q := range questions {
			for _, p := range r.peers {
				_, err := p.answer(ctx, q)
				if err == nil {
					return fmt.Errorf("%s answers %s", p.name, what)
				}
				if !refusal(err) {
					return fmt.Errorf("%s does not refuse %s but fails: %w", p.name, what, err)
				}
			}
		}
	}
	return nil
}

func (p *peer) answer(ctx context.Context, q question) (*Answer, error) {
	a, err := p.ask(q)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	got, err := a.Answer(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return got, nil
}

// with is a tensor with another value at one place.
func with(t *inferencev1.Tensor, at int, v float32) *inferencev1.Tensor {
	t = proto.CloneOf(t)
	t.Raw = slices.Clone(t.GetRaw())
	binary.LittleEndian.PutUint32(t.GetRaw()[4*at:], math.Float32bits(v))
	return t
}

// narrower is a row without its last feature.
func narrower(t *inferencev1.Tensor) *inferencev1.Tensor {
	columns := t.GetShape()[1] - 1
	return &inferencev1.Tensor{DataType: t.GetDataType(), Shape: []int64{1, columns}, Raw: t.GetRaw()[:4*columns]}
}

// refusal tells whether an error is one that a gate gives, and not a failure.
func refusal(err error) bool {
	var web statusError
	if errors.As(err, &web) {
		return web >= 400 && web < 500
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.Unauthenticated:
		return true
	case codes.Unavailable: // the handshake has failed
		return true
	case codes.Unknown:
		// MLServer has no code for 401, 403 and 429.
		return slices.ContainsFunc([]string{"KEY", "MODEL", "LIMIT"}, func(reason string) bool {
			return strings.HasSuffix(err.Error(), "desc = "+reason)
		})
	default:
		return false
	}
}
