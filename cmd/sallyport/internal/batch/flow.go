package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

const (
	// maxPause is the longest wait for a quota unless told to wait longer: a bucket
	// refills in that time, a budget that is used up does not.
	maxPause = 5 * time.Minute
	// maxIdle is the longest wait with a stream open.
	maxIdle = time.Minute
	// maxBackoff is the longest wait for a server that is overloaded over and over.
	maxBackoff = 5 * time.Second
	// progressEvery is how often progress is told.
	progressEvery = 200 * time.Millisecond
)

// read is what the reading goroutine hands on.
type read struct {
	chunk *table.Chunk
	err   error
}

// flow is the rows on their way from the table to the server and back. All of it
// belongs to one goroutine, but for reading ahead and receiving.
type flow struct {
	*run
	chunks  chan read
	ended   bool      // there are no more chunks
	flights []*flight // in the order of their rows
	todo    []*batch  // to send before new chunks
	// allowed is how many batches may be under way: the window, until a quota
	// refuses; then one, and one more with each answer. Else each refusal would be
	// one of a whole window, and paid for.
	allowed int
	// notBefore is when the next batch may be sent, and why.
	notBefore time.Time
	slowed    string
	throttled int // refusals in a row that asked to wait
	saved     time.Time
}

// flow answers all rows from the run's position on. What was answered when it ends
// is durable.
func (r *run) flow(ctx context.Context) error {
	f := &flow{run: r, chunks: make(chan read, 1), saved: time.Now()}
	reading, stop := context.WithCancel(ctx)
	var reader sync.WaitGroup
	reader.Go(func() { r.readAhead(reading, f.chunks) })
	err := f.proceed(ctx)
	stop()
	if r.Input != Pipe {
		reader.Wait()
	} // else it may wait for input that never comes; the process is about to end
	var broken *writeError
	if errors.As(err, &broken) {
		return broken // the checkpoint before holds
	}
	if err := r.save(); err != nil {
		return err
	}
	f.tell()
	return err
}

// readAhead reads the table until its end, a chunk ahead of the one that waits.
func (r *run) readAhead(ctx context.Context, to chan<- read) {
	for {
		c, err := r.reader.Next()
		r.share.Store(r.reader.Done())
		select {
		case to <- read{c, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// writeError is that an answer could not be written.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// laterError ends a stream over which nothing may be sent for long.
type laterError struct {
	until time.Time
	cause error
}

func (e *laterError) Error() string { return e.cause.Error() }
func (e *laterError) Unwrap() error { return e.cause }

// proceed goes on over one stream after the other until all rows are answered.
func (f *flow) proceed(ctx context.Context) error {
	for {
		if f.stream == nil {
			if err := f.patiently(ctx, func() error { return f.openStream(ctx) }); err != nil {
				return f.stopped(ctx, err)
			}
		}
		err := f.carry(ctx, f.stream)
		_ = f.stream.Close()
		f.stream = nil
		if err == nil {
			return nil
		}
		var later *laterError
		if st := statusOf(err); errors.As(err, &later) || st != nil && f.delays(st) {
			if err := f.rest(ctx, err); err != nil {
				return f.stopped(ctx, err)
			}
			continue
		}
		return f.stopped(ctx, err)
	}
}

// delays takes note of a refusal that asks to wait.
func (f *flow) delays(st *status.Status) bool {
	delay, ok := retryIn(st)
	if !ok {
		return false
	}
	f.throttled++
	f.allowed = 1
	f.slowed = reasonOf(st)
	if f.slowed == "OVERLOADED" {
		delay = min(max(delay<<min(f.throttled-1, 10), delay), maxBackoff)
	}
	if at := time.Now().Add(delay); at.After(f.notBefore) {
		f.notBefore = at
	}
	return true
}

// rest waits without a stream, if that is worth it. cause is why.
func (f *flow) rest(ctx context.Context, cause error) error {
	wait := time.Until(f.notBefore)
	if wait > maxPause && !f.WaitForBudget {
		return &UnfinishedError{Cause: cause, Again: f.notBefore.Add(time.Second).Truncate(time.Second)}
	}
	if err := f.save(); err != nil {
		return &writeError{err}
	}
	f.tell()
	return sleep(ctx, wait)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopped is the error of a run that ends before its end.
func (f *flow) stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && f.place != nil && f.Input != Pipe {
		return &UnfinishedError{Cause: context.Cause(ctx)}
	}
	return err
}

// carry sends and receives over a stream until all rows are answered. What has no
// result when it ends is to do again.
func (f *flow) carry(ctx context.Context, stream *sallyport.Stream) (err error) {
	window := max(int(stream.Opened().GetWindow()), 1)
	if f.allowed == 0 {
		f.allowed = window
	}
	underway := make(map[uint64]*batch, window)
	results, failed, stop := make(chan *inferencev1.StreamResult), make(chan error, 1), make(chan struct{})
	var receiving sync.WaitGroup
	receiving.Go(func() { receive(stream, results, failed, stop) })
	defer func() {
		_ = stream.Close()
		close(stop)
		receiving.Wait()
		for _, b := range underway {
			f.todo = append(f.todo, b)
		}
	}()
	tick := time.NewTicker(min(f.Every, progressEvery))
	defer tick.Stop()
	for {
		wait := time.Until(f.notBefore)
		if len(underway) == 0 && (wait > maxIdle) {
			return &laterError{f.notBefore, fmt.Errorf("%s: the quota is used up", f.slowed)}
		}
		free := len(underway) < min(f.allowed, window) && wait <= 0
		if free && len(f.todo) > 0 {
			b := f.todo[0]
			f.todo = f.todo[1:]
			inputs, err := b.inputs()
			if err != nil {
				return err
			}
			sequence, err := stream.Send(inputs)
			if err != nil {
				f.todo = append(f.todo, b)
				return err
			}
			underway[sequence] = b
			continue
		}
		if f.ended && len(f.flights) == 0 {
			stream.CloseSend()
			<-failed //nolint:errcheck // how it ends does not matter: every row is answered
			return nil
		}
		var chunks <-chan read
		if free && !f.ended && len(f.flights) < window {
			chunks = f.chunks
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case next := <-chunks:
			if err := f.take(next); err != nil {
				return err
			}
		case r := <-results:
			b := underway[r.GetSequence()]
			delete(underway, r.GetSequence())
			if err := f.settle(b, r); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-timer:
		case <-tick.C:
			if err := f.ticked(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive hands on the results of a stream until its end, or until stop.
func receive(stream *sallyport.Stream, results chan<- *inferencev1.StreamResult, failed chan<- error, stop <-chan struct{}) {
	for {
		r, err := stream.Recv()
		if err != nil {
			failed <- err
			return
		}
		select {
		case results <- r:
		case <-stop:
			return
		}
	}
}

// take takes the next chunk of the table.
func (f *flow) take(next read) error {
	if errors.Is(next.err, io.EOF) {
		f.ended = true
		return nil
	}
	if next.err != nil {
		return fmt.Errorf("%s: %w", f.Input, next.err)
	}
	flight, b := newFlight(next.chunk)
	f.flights = append(f.flights, flight)
	if b != nil {
		f.todo = append(f.todo, b)
		return nil
	}
	return f.land()
}

// settle takes the result of a batch.
func (f *flow) settle(b *batch, r *inferencev1.StreamResult) error {
	if r.GetStatus() == nil {
		f.allowed++
		f.throttled = 0
		if time.Now().After(f.notBefore) { // else it is an answer to a batch sent before the refusal
			f.slowed = ""
		}
		b.answered(r.GetOutputs().GetOutputs())
		return f.land()
	}
	st := status.FromProto(r.GetStatus())
	if f.delays(st) {
		f.todo = append(f.todo, b)
		return nil
	}
	instead, err := b.refused(st)
	if err != nil {
		return err
	}
	f.todo = append(instead, f.todo...)
	return f.land()
}

// land writes the flights that are complete, up to the first that is not.
func (f *flow) land() error {
	for len(f.flights) > 0 && f.flights[0].open == 0 {
		done := f.flights[0]
		if err := done.write(f.writer, f.faults); err != nil {
			return &writeError{err}
		}
		f.flights = f.flights[1:]
		f.state.Position = done.chunk.To
		f.state.Refused += int64(len(done.faults))
		f.state.Answered += int64(len(done.chunk.Numbers)+len(done.chunk.Faults)) - int64(len(done.faults))
		if err := f.overMaxErrors(); err != nil {
			return err
		}
	}
	return nil
}

// overMaxErrors is that too many rows have no answer.
func (r *run) overMaxErrors() error {
	if r.MaxErrors < 0 || r.state.Refused <= r.MaxErrors {
		return nil
	}
	return fmt.Errorf("%d rows have no answer, which is more than --max-errors %d; %s says why. A larger --max-errors, or -1, goes on where this run stopped",
		r.state.Refused, r.MaxErrors, r.Errors)
}

// ticked tells the progress, and makes the state durable when it is time.
func (f *flow) ticked() error {
	if time.Since(f.saved) >= f.Every {
		f.saved = time.Now()
		if err := f.save(); err != nil {
			return &writeError{err}
		}
	}
	f.tell()
	return nil
}

func (f *flow) tell() {
	if f.Progress == nil {
		return
	}
	f.Progress(Progress{Answered: f.state.Answered, Refused: f.state.Refused, Before: f.before, Done: f.share.Load(), Slowed: f.slowed})
}

// openStream opens a stream of the version that the run is of.
func (r *run) openStream(ctx context.Context) error {
	s, err := r.Stream(ctx, sallyport.StreamConfig{
		Model: r.Model, Version: r.state.Version, Outputs: r.outputs,
		Retry: sallyport.Retry{Attempts: 12 + int(r.Patience/(5*time.Second))}, // after the first dozen it waits 5 s each
	})
	if err != nil {
		return err
	}
	if digest := s.Opened().GetDigest(); digest != r.state.Digest {
		_ = s.Close()
		return fmt.Errorf("%w: version %d was %s and is %s", sallyport.ErrModelChanged, r.state.Version, r.state.Digest, digest)
	}
	r.stream = s
	return nil
}

// patiently makes a call again as long as the server asks for that: it has a quota,
// or the place of a stream that has ended is not free yet. A run that goes on also
// waits for a server that is away: its address was right once.
func (r *run) patiently(ctx context.Context, call func() error) error {
	const most = 60 // waits for a stream's place, of which nobody knows how long
	start := time.Now()
	for places := 0; ; {
		err := call()
		st := statusOf(err)
		if err == nil || st == nil {
			return err
		}
		delay, ok := retryIn(st)
		if st.Code() == codes.ResourceExhausted && reasonOf(st) == "QUOTA_STREAMS" && places < most {
			delay, ok = time.Second, true
			places++
		}
		if st.Code() == codes.Unavailable && r.place != nil && r.place.begun && time.Since(start) < r.Patience {
			delay, ok = max(delay, time.Second), true
		}
		if !ok {
			return err
		}
		if delay > maxPause && !r.WaitForBudget {
			return &UnfinishedError{Cause: err, Again: time.Now().Add(delay + time.Second).Truncate(time.Second)}
		}
		if r.Progress != nil {
			r.Progress(Progress{Answered: r.state.Answered, Refused: r.state.Refused, Before: r.before, Done: -1, Slowed: reasonOf(st)})
		}
		if err := sleep(ctx, delay); err != nil {
			return err
		}
	}
}
