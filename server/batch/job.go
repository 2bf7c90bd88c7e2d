package batch

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/server/model"
)

// key is what the requests of one run have in common.
type key struct {
	version *model.Version
	stream  bool
	// outputs are those asked for, and shapes those of the inputs but for their rows
	// and what the signature says anyway.
	outputs, shapes string
	// caller is whose they all are; empty if they may be of anybody who is not apart.
	caller string
}

func (s *Scheduler) keyOf(r Request) key {
	k := key{version: r.Version, stream: r.Stream}
	if s.apart.has(r.Caller) {
		k.caller = r.Caller
	}
	if len(r.Outputs) > 0 {
		names := slices.Clone(r.Outputs)
		slices.Sort(names)
		var b strings.Builder
		for _, name := range slices.Compact(names) {
			b.WriteString(strconv.Quote(name))
		}
		k.outputs = b.String()
	}
	var shapes []byte
	for _, spec := range r.Version.Signature.Inputs {
		for i := 1; i < len(spec.Shape); i++ {
			if spec.Shape[i] == -1 {
				shapes = strconv.AppendInt(append(shapes, ' '), r.Inputs[spec.Name].Shape[i], 10)
			}
		}
	}
	k.shapes = string(shapes)
	return k
}

// job is a request that may be run together with others. The goroutine of its call
// waits for it, whoever runs it.
type job struct {
	Request
	ctx     context.Context //nolint:containedctx // a job is the call of a function that another goroutine goes on with
	key     key
	arrived time.Time
	state   atomic.Uint32

	// Of the run that it is part of: merged is set before the state is reading, the
	// others before it is running.
	merged *merged
	begun  time.Time
	total  int64 // rows

	// Set before done is closed.
	outputs map[string]*model.Tensor
	ran     time.Duration
	err     error
	done    chan struct{}
}

// The states of a job. Its call can leave while nobody reads its inputs.
const (
	waiting uint32 = iota // for a turn
	reading               // whoever runs it reads its inputs
	running               // its inputs have been copied
	left
)

func (s *Scheduler) newJob(ctx context.Context, r Request) *job {
	return &job{Request: r, ctx: ctx, key: s.keyOf(r), arrived: time.Now(), done: make(chan struct{})}
}

// wait waits for the run that has taken the job, or for the end of its context.
func (j *job) wait() (map[string]*model.Tensor, time.Duration, error) {
	select {
	case <-j.done:
	case <-j.ctx.Done():
		if j.state.CompareAndSwap(waiting, left) {
			return nil, 0, notStarted(j.ctx.Err())
		}
		select {
		case <-j.merged.copied:
		case <-j.done:
		}
		if j.state.CompareAndSwap(running, left) {
			j.merged.leave()
			return nil, j.part(time.Since(j.begun)), j.ctx.Err()
		}
		<-j.done // it has ended, or runs by itself under its own context
	}
	return j.outputs, j.ran, j.err
}

// part is what of a run's time is the job's.
func (j *job) part(took time.Duration) time.Duration {
	return time.Duration(float64(took) * float64(j.Rows) / float64(j.total))
}

// finish answers the job, whose inputs nobody reads any more.
func (j *job) finish(outputs map[string]*model.Tensor, ran time.Duration, err error) {
	j.outputs, j.ran, j.err = outputs, ran, err
	close(j.done)
}
