package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sallyport/sallyport/bench/load"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Dial returns a connection of caller i to a server: grpc-go with its defaults
// over go-spiffe's TLS, as the bare server has it.
func (s *Site) Dial(p *Process, i int) (*grpc.ClientConn, error) {
	source := s.sources[i]
	return grpc.NewClient("passthrough:///"+p.Address, grpc.WithTransportCredentials(credentials.NewTLS(
		tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(Server)))))
}

// deadline is that of each call, as a client should have one.
const deadline = 30 * time.Second

// Unary returns a caller that sends one request, serialized beforehand, again
// and again. What comes back is not deserialized: it is the server that is
// measured.
func Unary(conn *grpc.ClientConn, request []byte, opts ...grpc.CallOption) load.Caller {
	return UnaryOf(conn, inferencev1.PredictionService_Predict_FullMethodName, request, opts...)
}

// UnaryOf is Unary for any method.
func UnaryOf(conn *grpc.ClientConn, method string, request []byte, opts ...grpc.CallOption) load.Caller {
	opts = append([]grpc.CallOption{grpc.ForceCodecV2(codec{})}, opts...)
	return load.CallerFunc(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		var answer reply
		err := conn.Invoke(ctx, method, message{request}, &answer, opts...)
		if err == nil && answer.size == 0 {
			return errors.New("an empty answer")
		}
		return err
	})
}

// Stream is a stream whose window is kept full. Each Call takes one result; the
// next batch is then sent.
type Stream struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
	places chan struct{}
	ended  chan struct{} // closed when nothing sends any more
	// sent is when the batches left that are on their way, each at the place of its
	// sequence; results come in that order.
	sent  []atomic.Int64
	begin time.Time
	next  uint64 // sequence of the next result
	took  time.Duration
}

var _ load.Timer = (*Stream)(nil)

// OpenStream opens a stream with the open message and sends the inputs of a batch,
// serialized beforehand, again and again; window is how many batches are on their
// way. Close it.
func OpenStream(ctx context.Context, conn *grpc.ClientConn, open, inputs []byte, window int, opts ...grpc.CallOption) (_ *Stream, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	stream, err := conn.NewStream(ctx, &inferencev1.PredictionService_ServiceDesc.Streams[0],
		inferencev1.PredictionService_PredictStream_FullMethodName, append(opts, grpc.ForceCodecV2(codec{}))...)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(message{open}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.RecvMsg(new(reply)); err != nil {
		return nil, fmt.Errorf("open a stream: %w", err)
	}
	s := &Stream{
		stream: stream, cancel: cancel, places: make(chan struct{}, window), ended: make(chan struct{}),
		sent: make([]atomic.Int64, window), begin: time.Now(), next: 1,
	}
	for range window {
		s.places <- struct{}{}
	}
	go s.send(ctx, inputs)
	return s, nil
}

// send sends a batch for each place in the window. It has a goroutine of its own:
// where both sides wait for the other to read, both would wait for ever. Why a
// stream ended is what receiving tells.
func (s *Stream) send(ctx context.Context, inputs []byte) {
	defer close(s.ended)
	for sequence := uint64(1); ; sequence++ {
		select {
		case <-s.places:
		case <-ctx.Done():
			return
		}
		s.sent[sequence%uint64(len(s.sent))].Store(int64(time.Since(s.begin)))
		if err := s.stream.SendMsg(numbered(inputs, sequence)); err != nil {
			return
		}
	}
}

// Call takes one result.
func (s *Stream) Call(context.Context) error {
	var answer reply
	if err := s.stream.RecvMsg(&answer); err != nil {
		return err
	}
	s.took = time.Since(s.begin) - time.Duration(s.sent[s.next%uint64(len(s.sent))].Load())
	s.next++
	s.places <- struct{}{}
	return answer.batchError()
}

// Took is how long the last batch was on its way, there and back.
func (s *Stream) Took() time.Duration { return s.took }

// Close ends the stream.
func (s *Stream) Close() {
	s.cancel()
	<-s.ended
}
