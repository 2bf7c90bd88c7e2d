package sallyport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// StreamConfig says what the batches of a stream are for.
type StreamConfig struct {
	// Model is the model's name; required.
	Model string
	// Version of the model; 0 for its default version at the time of opening, which
	// the stream then keeps.
	Version int64
	// Outputs to return; empty for all.
	Outputs []string
	// Ordered says that results come in the order of the batches.
	Ordered bool
	// Retry says how often the stream is resumed without getting on.
	Retry Retry
}

// ErrModelChanged is that a stream cannot be resumed because the server no longer
// has the version that it was begun with, or has another artefact in its place.
// What was answered holds; a new stream runs on the new one.
var ErrModelChanged = errors.New("the model has changed since the stream was opened")

// Stream sends batches of rows to a model and takes their results. It goes on
// over a new RPC when the connection gives way to one with a fresh identity, when
// the server drains, restarts or cannot be reached for a while: what was not
// answered is sent again. Every batch has exactly one result, however often it
// was sent; each sending costs quota and is recorded.
//
// It waits in the same way, as Retry says, while the server's SVID or the
// client's own has expired, as both do when the Workload API is away for long;
// the error of Recv says so if that lasts. A server or a client that is refused
// for any other reason ends the stream at once.
//
// No more batches than the server's window are in memory: their inputs until
// they are answered, their results until Recv takes them.
//
// Send, CloseSend and Recv may be called at the same time. The caller takes
// results until the error of Recv, or calls Close, or ends the context.
type Stream struct {
	conn  grpc.ClientConnInterface
	cfg   StreamConfig
	again func(error) bool // whether resuming may help
	// spend tells whether the budget has another attempt; nil if there is none.
	spend func() bool
	// elsewhere tells whether another server may take over after an error; nil if
	// there is only one.
	elsewhere func(error) bool
	ctx       context.Context // a stream wrapper's
	// cancel ends ctx.
	cancel context.CancelFunc

	opened *inferencev1.StreamOpened // by the first RPC
	window chan struct{}             // holds a value for each batch between Send and Recv
	in     chan *batch               // from Send to run; as long as the window, so that Send does not block on it
	out    chan *inferencev1.StreamResult
	over   chan struct{} // closed when run has ended
	err    error         // why it has; set before over and out are closed

	// Of the goroutine of run.
	todo      []*batch // to be sent before what comes from in
	last      bool     // in is closed and empty
	fruitless int      // attempts in a row that got no result
	changed   int      // of them, those that found another model

	// Of the goroutine of receive, of which there is one at a time.
	due  uint64 // the sequence whose result comes next, if ordered
	held map[uint64]*inferencev1.StreamResult

	mu       sync.Mutex // guards what follows
	sequence uint64     // of the last batch that was sent
	closed   bool       // in is closed
	calls    []string   // ids of the RPCs
}

// batch is one batch that has no result yet.
type batch struct {
	sequence uint64
	inputs   map[string]*inferencev1.Tensor
	put      int // how often it was put off by a result that is none
}

// OpenStream opens a stream of batches over a connection of the caller's own and
// blocks until the server has opened it. The stream ends with ctx. Over a Client,
// use its Stream: of a connection of another kind it is not known whether an SVID
// has expired, and one that is refused ends the stream.
func OpenStream(ctx context.Context, conn grpc.ClientConnInterface, cfg StreamConfig) (*Stream, error) {
	s := newStream(ctx, conn, cfg)
	s.again = func(err error) bool { return retriable(err, s.opened != nil) }
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

func newStream(ctx context.Context, conn grpc.ClientConnInterface, cfg StreamConfig) *Stream {
	cfg.Retry = cfg.Retry.withDefaults(12)
	s := &Stream{conn: conn, cfg: cfg, over: make(chan struct{}), due: 1, held: make(map[uint64]*inferencev1.StreamResult)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// start opens the first RPC.
func (s *Stream) start() error {
	l, err := s.reopen(nil)
	if err != nil {
		s.cancel()
		return err
	}
	window := max(int(s.opened.GetWindow()), 1)
	s.window = make(chan struct{}, window)
	s.in = make(chan *batch, window)
	s.out = make(chan *inferencev1.StreamResult, window)
	go s.run(l)
	return nil
}

// Opened is the server's answer to the opening: model, version and digest, which
// hold for all results, window and the most rows of a batch. It is shared.
func (s *Stream) Opened() *inferencev1.StreamOpened { return s.opened }

// CallIDs are the server's ids of the RPCs that the stream has used so far.
func (s *Stream) CallIDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Send sends a batch and returns its sequence, which its result will have; the
// first is 1. It blocks while as many batches as the window holds have not been
// taken by Recv. The inputs must not change until the result is there. The error
// is that of the stream, as of Recv.
func (s *Stream) Send(inputs map[string]*inferencev1.Tensor) (sequence uint64, err error) {
	select {
	case s.window <- struct{}{}:
	case <-s.over:
	}
	select {
	case <-s.over: // it may be so beside a place in the window
		return 0, s.err
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		<-s.window
		return 0, errors.New("batch sent after CloseSend")
	}
	s.sequence++
	s.in <- &batch{sequence: s.sequence, inputs: inputs}
	return s.sequence, nil
}

// CloseSend says that there are no more batches. Calling it again is harmless.
func (s *Stream) CloseSend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.in)
	}
}

// Recv blocks for the next result: outputs, or the status that says why the batch
// has none, which does not end the stream. The error is io.EOF after CloseSend
// and the last result; another one says why the stream has ended before, and
// comes after the results that were there.
func (s *Stream) Recv() (*inferencev1.StreamResult, error) {
	r, ok := <-s.out
	if !ok {
		return nil, s.err
	}
	<-s.window
	return r, nil
}

// Close ends the stream, whatever is under way, and waits for that.
func (s *Stream) Close() error {
	s.cancel()
	<-s.over
	return nil
}

// run takes the batches over one RPC after the other.
func (s *Stream) run(l *leg) {
	defer s.cancel()
	defer close(s.over)
	defer close(s.out)
	for l != nil {
		err := s.carry(l)
		if s.err = s.ended(err); s.err != nil {
			return
		}
		if s.fruitless++; l.answered > 0 || err == nil && l.isRetired() {
			s.fruitless, s.changed = 0, 0
		}
		if err == nil {
			err = errUnanswered
			if l.draining {
				err = errDraining
			}
		}
		if l, s.err = s.resume(err); s.err != nil {
			return
		}
	}
	s.err = io.EOF
}

// Why a stream ends whose server ends it too early, over and over.
var (
	errUnanswered = errors.New("the server ended the stream before it answered every batch")
	errDraining   = status.Error(codes.Unavailable, "the server is stopping and answers no more batches; try again later")
)

// ended is what the stream ends with after an RPC that ended with err; nil if it
// goes on.
func (s *Stream) ended(err error) error {
	switch {
	case s.ctx.Err() != nil:
		return s.contextError()
	case err != nil && !s.again(err):
		return err
	case s.last && len(s.todo) == 0:
		return io.EOF
	}
	return nil
}

func (s *Stream) contextError() error {
	if cause := context.Cause(s.ctx); errors.Is(cause, errClosed) {
		return cause
	}
	return status.FromContextError(s.ctx.Err()).Err()
}

// resume opens the next RPC once there is something to send; nil if there will
// be nothing. last is what the one before ended with.
func (s *Stream) resume(last error) (*leg, error) {
	if len(s.todo) == 0 {
		select {
		case b, ok := <-s.in:
			if !ok {
				return nil, nil
			}
			s.todo = append(s.todo, b)
		case <-s.ctx.Done():
			return nil, s.contextError()
		}
	}
	return s.reopen(last)
}

// reopen opens an RPC, and again as long as that may help. last is what the
// attempt before ended with.
func (s *Stream) reopen(last error) (*leg, error) {
	for {
		if s.fruitless >= s.cfg.Retry.Attempts {
			return nil, last
		}
		if err := s.pause(last); err != nil {
			return nil, err
		}
		l, err := s.open()
		switch {
		case err == nil:
			return l, nil
		case s.ctx.Err() != nil:
			return nil, s.contextError()
		case s.opened != nil && reasonOf(err) == quotaStreams:
			// The RPC whose place this one takes may not have ended on the server yet.
		case errors.Is(err, ErrModelChanged) && s.isElsewhere(err) && s.changed < maxChanged:
			// A server that another model was put on before the others.
			s.changed++
		case !s.again(err):
			return nil, err
		}
		s.fruitless++
		last = err
	}
}

// maxChanged is how often a stream asks another server for its model.
const maxChanged = 4

// pause waits before an attempt that comes after fruitless ones, of which the last
// ended with the error given. Its own error ends the stream.
//
// What is open already has its retries from the budget too, but does not end for
// want of them: its work would be lost, and its attempts are few and far between.
func (s *Stream) pause(last error) error {
	if s.fruitless == 0 {
		return nil
	}
	elsewhere := s.isElsewhere(last)
	if s.spend != nil && !s.spend() {
		if s.opened == nil {
			return fmt.Errorf("%w; %w", last, ErrRetryBudget)
		}
		elsewhere = false
	}
	wait, ok := s.cfg.Retry.wait(s.fruitless, last, elsewhere)
	if !ok || !fits(s.ctx, wait) {
		return last
	}
	if !pause(s.ctx, wait) {
		return s.contextError()
	}
	return nil
}

func (s *Stream) isElsewhere(err error) bool { return s.elsewhere != nil && s.elsewhere(err) }

// check compares what a later RPC runs on with what the first did.
func (s *Stream) check(opened *inferencev1.StreamOpened) error {
	first := s.opened
	if opened.GetVersion() != first.GetVersion() || opened.GetDigest() != first.GetDigest() {
		return fmt.Errorf("%w: from version %d, %s to version %d, %s", ErrModelChanged,
			first.GetVersion(), first.GetDigest(), opened.GetVersion(), opened.GetDigest())
	}
	return nil
}
