package sallyport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// openTimeout is how long the server may take to open a stream.
const openTimeout = 30 * time.Second

// maxWindow is the largest window that a server can be configured to have. It is
// memory of the client.
const maxWindow = 1024

const callIDHeader = "sallyport-call-id"

// leg is one RPC of a stream.
type leg struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
	// retired is closed when there is a newer connection; nil if there is never.
	retired <-chan struct{}
	// stop is closed when no more batches should be sent: the server drains, or
	// the RPC has ended.
	stop  chan struct{}
	ended chan error // has why it has ended; nil for in order

	// Of receive, and of run when it has ended.
	draining bool
	answered int // batches that ran

	mu       sync.Mutex // guards what follows
	sequence uint64     // of the last batch on this RPC
	sent     map[uint64]*batch
}

// open opens an RPC.
func (s *Stream) open() (*leg, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	timer := time.AfterFunc(openTimeout, cancel)
	l, err := s.openLeg(ctx)
	if err == nil && !timer.Stop() {
		err = fmt.Errorf("the server did not open the stream within %v", openTimeout)
	}
	timer.Stop()
	if err != nil {
		cancel()
		return nil, err
	}
	l.cancel = cancel
	return l, nil
}

func (s *Stream) openLeg(ctx context.Context) (*leg, error) {
	desc := &inferencev1.PredictionService_ServiceDesc.Streams[0]
	stream, err := s.conn.NewStream(ctx, desc, inferencev1.PredictionService_PredictStream_FullMethodName)
	if err != nil {
		return nil, err
	}
	version := s.cfg.Version
	if s.opened != nil {
		version = s.opened.GetVersion()
	}
	// Results are put in order here: the server's order would not hold over
	// several RPCs.
	err = stream.SendMsg(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{Open: &inferencev1.StreamOpen{
		Model: s.cfg.Model, Version: version, Outputs: s.cfg.Outputs,
	}}})
	if err != nil && !errors.Is(err, io.EOF) { // of an end RecvMsg knows the reason
		return nil, err
	}
	first := new(inferencev1.PredictStreamResponse)
	if err := stream.RecvMsg(first); err != nil {
		if errors.Is(err, io.EOF) {
			err = errUnanswered
		}
		if s.opened != nil && statusOf(err).Code() == codes.NotFound {
			err = fmt.Errorf("%w: version %d is gone: %w", ErrModelChanged, version, err)
		}
		return nil, err
	}
	opened := first.GetOpened()
	if opened == nil {
		return nil, errors.New("the server did not open the stream")
	}
	if n := opened.GetWindow(); n > maxWindow {
		return nil, fmt.Errorf("the server's window is %d batches, more than any has: %d", n, maxWindow)
	}
	if s.opened == nil {
		s.opened = opened
	} else if err := s.check(opened); err != nil {
		return nil, err
	}
	if header, err := stream.Header(); err == nil {
		s.mu.Lock()
		s.calls = append(s.calls, header.Get(callIDHeader)...)
		s.mu.Unlock()
	}
	l := &leg{stream: stream, stop: make(chan struct{}), ended: make(chan error, 1), sent: make(map[uint64]*batch)}
	if m, ok := stream.(*movingStream); ok {
		l.retired = m.generation.retired
	}
	return l, nil
}

// carry sends batches over the RPC and takes their results until it has to be
// left or there are no more. What has no result then is in todo, and nothing of
// the RPC is left.
func (s *Stream) carry(l *leg) error {
	defer l.cancel()
	go s.receive(l)
	for b := s.next(l); b != nil; b = s.next(l) {
		err := l.stream.SendMsg(l.add(b))
		if err != nil && !errors.Is(err, io.EOF) {
			l.cancel()
			<-l.ended //nolint:errcheck // err says more
			s.leave(l)
			return err
		}
	}
	// In order, so that its record says that it went well. Its error comes to
	// receive as well.
	_ = l.stream.CloseSend()
	err := <-l.ended
	s.leave(l)
	return err
}

// next blocks for the next batch to send over the RPC; nil if there is none.
func (s *Stream) next(l *leg) *batch {
	select { // rather than with another batch
	case <-l.retired:
		return nil
	case <-l.stop:
		return nil
	default:
	}
	if len(s.todo) > 0 {
		b := s.todo[0]
		s.todo = s.todo[1:]
		return b
	}
	select {
	case b, ok := <-s.in:
		s.last = !ok
		return b
	case <-l.retired:
	case <-l.stop:
	}
	return nil
}

// add notes that a batch is sent, under a number of this RPC's own: what is sent
// again comes after batches that were sent later.
func (l *leg) add(b *batch) *inferencev1.PredictStreamRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sequence++
	l.sent[l.sequence] = b
	return &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
		Batch: &inferencev1.StreamBatch{Sequence: l.sequence, Inputs: b.inputs},
	}}
}

// receive takes the results of an RPC until it ends.
func (s *Stream) receive(l *leg) {
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			close(l.stop)
		}
	}
	var err error
	for err == nil {
		m := new(inferencev1.PredictStreamResponse)
		if err = l.stream.RecvMsg(m); err != nil {
			break
		}
		if m.GetDraining() != nil {
			l.draining = true
			stop()
			continue
		}
		var goesOn bool
		if goesOn, err = s.take(l, m.GetResult()); !goesOn {
			stop()
		}
	}
	stop()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	l.ended <- err
}

// take takes a result. goesOn is whether more batches may be sent on the RPC.
func (s *Stream) take(l *leg, r *inferencev1.StreamResult) (goesOn bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.sent[r.GetSequence()]
	if b == nil {
		return false, fmt.Errorf("the server answered a batch that was not sent: %d", r.GetSequence())
	}
	c := codes.Code(r.GetStatus().GetCode()) //nolint:gosec // a status code is a small number
	if c == codes.OK && r.GetOutputs() == nil {
		return false, fmt.Errorf("the server answered batch %d with neither outputs nor an error", b.sequence)
	}
	if (c == codes.Canceled || c == codes.Unavailable) && b.put+1 < s.cfg.Retry.Attempts {
		// The RPC ends under it; it stays among what was sent.
		b.put++
		return false, nil
	}
	delete(l.sent, r.GetSequence())
	if r.GetStatus() == nil {
		l.answered++
	}
	r.Sequence = b.sequence
	if !s.cfg.Ordered {
		s.out <- r // out is as long as the window
		return true, nil
	}
	s.held[b.sequence] = r
	for next := s.held[s.due]; next != nil; next = s.held[s.due] {
		delete(s.held, s.due)
		s.due++
		s.out <- next
	}
	return true, nil
}

// leave takes back what the RPC has not answered.
func (s *Stream) leave(l *leg) {
	for _, b := range l.sent {
		s.todo = append(s.todo, b)
	}
	slices.SortFunc(s.todo, func(a, b *batch) int {
		if a.sequence < b.sequence {
			return -1
		}
		return 1
	})
}

func (l *leg) isRetired() bool {
	select {
	case <-l.retired:
		return true
	default:
		return false
	}
}
