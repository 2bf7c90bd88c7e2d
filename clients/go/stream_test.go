package sallyport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/protoadapt"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

type serverStream = grpc.BidiStreamingServer[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]

// script is a server that does what a real one does only now and then. Each RPC
// is told its number, counted from 1.
type script struct {
	inferencev1.UnimplementedPredictionServiceServer
	rpc func(n int, open *inferencev1.StreamOpen, stream serverStream) error
	// predict answers a unary call, which has its own number.
	predict func(n int) error

	mu    sync.Mutex // guards what follows
	rpcs  int
	calls int
}

func (s *script) Predict(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	s.mu.Lock()
	s.calls++
	n := s.calls
	s.mu.Unlock()
	return &inferencev1.PredictResponse{}, s.predict(n)
}

func (s *script) PredictStream(stream serverStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.rpcs++
	n := s.rpcs
	s.mu.Unlock()
	return s.rpc(n, first.GetOpen(), stream)
}

// serveInMemory serves the script until the test ends.
func serveInMemory(t *testing.T, s *script) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	inferencev1.RegisterPredictionServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}

func opened(version int64, digest string) *inferencev1.PredictStreamResponse {
	return &inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Opened{
		Opened: &inferencev1.StreamOpened{Model: "m", Version: version, Digest: digest, Window: window},
	}}
}

func accept(stream serverStream) error { return stream.Send(opened(7, "sha256:00")) }

// answer is the result of a batch: its inputs.
func answer(b *inferencev1.StreamBatch) *inferencev1.PredictStreamResponse {
	return &inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: &inferencev1.StreamResult{
		Sequence: b.GetSequence(),
		Result:   &inferencev1.StreamResult_Outputs{Outputs: &inferencev1.StreamOutputs{Outputs: b.GetInputs()}},
	}}}
}

func refuse(b *inferencev1.StreamBatch, err error) *inferencev1.PredictStreamResponse {
	return &inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: &inferencev1.StreamResult{
		Sequence: b.GetSequence(),
		Result:   &inferencev1.StreamResult_Status{Status: status.Convert(err).Proto()},
	}}}
}

var draining = &inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Draining{Draining: &inferencev1.StreamDraining{}}}

// refusal is an error as a Sallyport server gives it.
func refusal(code codes.Code, reason string, details ...protoadapt.MessageV1) error {
	details = append(details, &errdetails.ErrorInfo{Domain: "sallyport", Reason: reason})
	st, err := status.New(code, "no").WithDetails(details...)
	if err != nil {
		return err
	}
	return st.Err()
}

// echo answers every batch until there are no more.
func echo(stream serverStream) error { return echoSome(stream, -1) }

// echoSome is echo for n batches. On one RPC they must come in their order, what is
// sent again first.
func echoSome(stream serverStream, n int) error {
	for last := int64(0); n != 0; n-- {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		x := m.GetBatch().GetInputs()["x"].GetInt64Values()[0]
		if x <= last {
			return status.Errorf(codes.InvalidArgument, "batch %d after %d", x, last)
		}
		last = x
		if err := stream.Send(answer(m.GetBatch())); err != nil {
			return err
		}
	}
	return nil
}

// echoOne answers the next batch with a result that knows only what is in it.
func echoOne(stream serverStream, r *inferencev1.StreamResult) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	r.Sequence = m.GetBatch().GetSequence()
	return stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: r}})
}

func number(n int64) map[string]*inferencev1.Tensor {
	return map[string]*inferencev1.Tensor{"x": {DataType: inferencev1.DataType_DATA_TYPE_INT64, Shape: []int64{1}, Int64Values: []int64{n}}}
}

// exchange sends n batches and returns what was answered: sequences, whose
// outputs must be those of their batch.
func exchange(s *sallyport.Stream, n int) (got []uint64, err error) {
	var sending sync.WaitGroup
	sending.Go(func() {
		defer s.CloseSend()
		for i := range n {
			if _, err := s.Send(number(int64(i + 1))); err != nil {
				return // Recv tells it
			}
		}
	})
	defer sending.Wait()
	for {
		r, err := s.Recv()
		if err != nil {
			return got, err
		}
		if st := r.GetStatus(); st != nil {
			return got, fmt.Errorf("batch %d: %w", r.GetSequence(), status.ErrorProto(st))
		}
		got = append(got, r.GetSequence())
		if x := r.GetOutputs().GetOutputs()["x"].GetInt64Values(); !slices.Equal(x, []int64{int64(r.GetSequence())}) {
			return got, fmt.Errorf("batch %d has the result of %v", r.GetSequence(), x)
		}
	}
}

const batches = 25

// Whatever ends an RPC early, the stream goes on over another and every batch has
// one result.
func TestStreamResumes(t *testing.T) {
	for _, tt := range []struct {
		name string
		// first is what the first RPCs do after they were opened; last what the one
		// after them does, that answers.
		first []func(serverStream) error
	}{
		{"nothing happens", nil},
		{"unavailable", []func(serverStream) error{
			func(s serverStream) error { return status.Error(codes.Unavailable, "gone") },
		}},
		{"audit log away", []func(serverStream) error{
			func(s serverStream) error { return refusal(codes.Unavailable, "AUDIT_UNAVAILABLE") },
		}},
		{"expired after some answers, three times", slices.Repeat([]func(serverStream) error{
			func(s serverStream) error {
				return errors.Join(echoSome(s, 5), refusal(codes.Unauthenticated, "IDENTITY_EXPIRED"))
			},
		}, 3)},
		{"expired with batches taken", []func(serverStream) error{
			func(s serverStream) error {
				for range window {
					if _, err := s.Recv(); err != nil {
						return err
					}
				}
				return refusal(codes.Unauthenticated, "IDENTITY_EXPIRED")
			},
		}},
		{"ends as if all were answered", []func(serverStream) error{
			func(s serverStream) error { return echoSome(s, 3) },
			func(s serverStream) error { return nil },
		}},
		{"drains", []func(serverStream) error{
			func(s serverStream) error {
				return errors.Join(echoSome(s, 3), s.Send(draining), echo(s))
			},
		}},
		{"drains and does not answer", []func(serverStream) error{
			func(s serverStream) error {
				if err := s.Send(draining); err != nil {
					return err
				}
				for {
					if _, err := s.Recv(); err != nil {
						return nil
					}
				}
			},
		}},
		{"answers out of order, then dies", []func(serverStream) error{
			func(s serverStream) error {
				var taken []*inferencev1.StreamBatch
				for range window {
					m, err := s.Recv()
					if err != nil {
						return err
					}
					taken = append(taken, m.GetBatch())
				}
				for _, b := range slices.Backward(taken[1:]) {
					if err := s.Send(answer(b)); err != nil {
						return err
					}
				}
				return status.Error(codes.Unavailable, "gone")
			},
		}},
		{"cancels batches because it ends", []func(serverStream) error{
			func(s serverStream) error {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				return errors.Join(s.Send(refuse(m.GetBatch(), refusal(codes.Canceled, "CANCELLED"))), refusal(codes.Unauthenticated, "IDENTITY_EXPIRED"))
			},
		}},
		{"cancels a batch and goes on", []func(serverStream) error{
			func(s serverStream) error {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				return errors.Join(s.Send(refuse(m.GetBatch(), refusal(codes.Canceled, "CANCELLED"))), echo(s))
			},
		}},
	} {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ordered %v", tt.name, ordered), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := &script{rpc: func(n int, open *inferencev1.StreamOpen, stream serverStream) error {
						// The version of the first RPC holds for all.
						if want := int64(min(n-1, 1)) * 7; open.GetVersion() != want {
							return status.Errorf(codes.InvalidArgument, "RPC %d opened with version %d", n, open.GetVersion())
						}
						if err := accept(stream); err != nil {
							return err
						}
						if n <= len(tt.first) {
							return tt.first[n-1](stream)
						}
						return echo(stream)
					}}
					s, err := sallyport.OpenStream(t.Context(), serveInMemory(t, server), sallyport.StreamConfig{Model: "m", Ordered: ordered})
					if err != nil {
						t.Fatal(err)
					}
					got, err := exchange(s, batches)
					if !errors.Is(err, io.EOF) {
						t.Error(err)
					}
					if ordered && !slices.IsSorted(got) {
						t.Errorf("not in order: %v", got)
					}
					slices.Sort(got)
					if len(got) != batches || len(slices.Compact(got)) != batches {
						t.Errorf("results of %v", got)
					}
					if server.rpcs != len(tt.first)+1 {
						t.Errorf("%d RPCs", server.rpcs)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// A server that takes nothing for 25 s, as when the Workload API is away, does not
// end a stream.
func TestStreamWaits(t *testing.T) {
	for range 20 { // the waits are spread
		synctest.Test(t, func(t *testing.T) {
			var away time.Time
			server := &script{rpc: func(n int, _ *inferencev1.StreamOpen, s serverStream) error {
				if n == 1 {
					away = time.Now()
					return errors.Join(accept(s), echoSome(s, 3))
				}
				if time.Since(away) < 25*time.Second {
					return refusal(codes.Unavailable, "DRAINING")
				}
				return errors.Join(accept(s), echo(s))
			}}
			s, err := sallyport.OpenStream(t.Context(), serveInMemory(t, server), sallyport.StreamConfig{Model: "m"})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := exchange(s, 10); !errors.Is(err, io.EOF) || len(got) != 10 {
				t.Errorf("results of %v, and %v", got, err)
			}
		})
	}
}

// What resuming cannot mend ends the stream, after the results that were there.
func TestStreamEnds(t *testing.T) {
	end := func(err error) func(int, serverStream) error {
		return func(_ int, s serverStream) error { return errors.Join(accept(s), echoSome(s, 3), err) }
	}
	for _, tt := range []struct {
		name string
		rpc  func(n int, s serverStream) error
		want string
		rpcs int
	}{
		{"denied", end(refusal(codes.PermissionDenied, "POLICY_DENIED")), "PermissionDenied", 1},
		{"invalid", end(refusal(codes.InvalidArgument, "REQUEST_INVALID")), "InvalidArgument", 1},
		{"revoked", end(refusal(codes.Unauthenticated, "IDENTITY_REVOKED")), "Unauthenticated", 1},
		{"token expired, and there is no other", end(refusal(codes.Unauthenticated, "TOKEN_EXPIRED")), "Unauthenticated", 1},
		{"internal", end(refusal(codes.Internal, "INTERNAL")), "Internal", 1},
		{"too many streams", func(n int, s serverStream) error {
			if n == 1 {
				return errors.Join(accept(s), echoSome(s, 3))
			}
			return refusal(codes.ResourceExhausted, "QUOTA_STREAMS")
		}, "ResourceExhausted", 13},
		{"cancelled by the server", end(refusal(codes.Canceled, "CANCELLED")), "Canceled", 1},
		{"answer to what was not sent", func(_ int, s serverStream) error {
			return errors.Join(accept(s), echoSome(s, 3), s.Send(answer(&inferencev1.StreamBatch{Sequence: 99})))
		}, "a batch that was not sent: 99", 1},
		{"two answers to a batch", func(_ int, s serverStream) error {
			return errors.Join(accept(s), echoSome(s, 3), s.Send(answer(&inferencev1.StreamBatch{Sequence: 3})))
		}, "a batch that was not sent: 3", 1},
		{"neither outputs nor an error", func(_ int, s serverStream) error {
			return errors.Join(accept(s), echoSome(s, 3), echoOne(s, &inferencev1.StreamResult{}))
		}, "neither outputs nor an error", 1},
		{"an error that is none", func(_ int, s serverStream) error {
			return errors.Join(accept(s), echoSome(s, 3), echoOne(s, &inferencev1.StreamResult{Result: &inferencev1.StreamResult_Status{Status: &spb.Status{}}}))
		}, "neither outputs nor an error", 1},
		{"another version", func(n int, s serverStream) error {
			return errors.Join(s.Send(opened(6+int64(n), "sha256:00")), echoSome(s, 3))
		}, sallyport.ErrModelChanged.Error(), 2},
		{"another artefact", func(n int, s serverStream) error {
			return errors.Join(s.Send(opened(7, fmt.Sprint("sha256:", n))), echoSome(s, 3))
		}, sallyport.ErrModelChanged.Error(), 2},
		{"version gone", func(n int, s serverStream) error {
			if n > 1 {
				return refusal(codes.NotFound, "MODEL_NOT_FOUND")
			}
			return errors.Join(accept(s), echoSome(s, 3))
		}, sallyport.ErrModelChanged.Error(), 2},
		{"nothing is answered any more", func(n int, s serverStream) error {
			if n == 1 {
				return errors.Join(accept(s), echoSome(s, 3))
			}
			return accept(s)
		}, "ended the stream before it answered every batch", 13},
		{"cannot be opened any more", func(n int, s serverStream) error {
			if n == 1 {
				return errors.Join(accept(s), echoSome(s, 3))
			}
			return refusal(codes.Unavailable, "DRAINING")
		}, "Unavailable", 13},
		{"always drains", func(n int, s serverStream) error {
			if n == 1 {
				return errors.Join(accept(s), echoSome(s, 3))
			}
			return errors.Join(accept(s), s.Send(draining))
		}, "answers no more batches", 13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &script{rpc: func(n int, _ *inferencev1.StreamOpen, s serverStream) error { return tt.rpc(n, s) }}
				s, err := sallyport.OpenStream(t.Context(), serveInMemory(t, server), sallyport.StreamConfig{Model: "m"})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				got, err := exchange(s, batches)
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("ended with %v, want %q", err, tt.want)
				}
				if want := []uint64{1, 2, 3}; !slices.Equal(got[:min(3, len(got))], want) {
					t.Errorf("results of %v", got)
				}
				if server.rpcs != tt.rpcs {
					t.Errorf("%d RPCs, want %d", server.rpcs, tt.rpcs)
				}
				if took := time.Since(began); took > time.Minute {
					t.Errorf("took %v", took)
				}
				if _, err := s.Send(number(1)); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Send after the end: %v", err)
				}
			})
		})
	}
}

// A batch whose result is again and again none has that as its result.
func TestStreamPutsOffForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &script{rpc: func(_ int, _ *inferencev1.StreamOpen, s serverStream) error {
			if err := accept(s); err != nil {
				return err
			}
			for {
				m, err := s.Recv()
				if err != nil {
					return nil
				}
				a := answer(m.GetBatch())
				if m.GetBatch().GetInputs()["x"].GetInt64Values()[0] == 2 {
					a = refuse(m.GetBatch(), refusal(codes.Unavailable, "MODEL_NOT_READY"))
				}
				if err := s.Send(a); err != nil {
					return err
				}
			}
		}}
		s, err := sallyport.OpenStream(t.Context(), serveInMemory(t, server), sallyport.StreamConfig{Model: "m", Retry: sallyport.Retry{Attempts: 3}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := exchange(s, 2)
		if err == nil || !strings.Contains(err.Error(), "batch 2: rpc error: code = Unavailable") || !slices.Equal(got, []uint64{1}) {
			t.Errorf("%v, %v", got, err)
		}
		if server.rpcs != 3 {
			t.Errorf("%d RPCs", server.rpcs)
		}
		_ = s.Close()
	})
}

// A consumer that does not take results holds up Send, and no more than the
// window is anywhere.
func TestStreamWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken := make(chan uint64, 100)
		server := &script{rpc: func(_ int, _ *inferencev1.StreamOpen, s serverStream) error {
			if err := accept(s); err != nil {
				return err
			}
			for {
				m, err := s.Recv()
				if err != nil {
					return nil
				}
				taken <- m.GetBatch().GetSequence()
				if err := s.Send(answer(m.GetBatch())); err != nil {
					return err
				}
			}
		}}
		s, err := sallyport.OpenStream(t.Context(), serveInMemory(t, server), sallyport.StreamConfig{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 * window {
			go func() { _, _ = s.Send(number(1)) }()
		}
		synctest.Wait()
		if len(taken) != window {
			t.Errorf("%d batches under way", len(taken))
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(taken) != window+1 {
			t.Errorf("%d batches after a result was taken", len(taken))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A server's window is memory of the client.
func TestStreamWindowThatNoServerHas(t *testing.T) {
	server := &script{rpc: func(_ int, _ *inferencev1.StreamOpen, s serverStream) error {
		first := opened(7, "sha256:00")
		first.GetOpened().Window = 1 << 24
		return errors.Join(s.Send(first), echo(s))
	}}
	s, err := sallyport.OpenStream(t.Context(), serveInMemory(t, server), sallyport.StreamConfig{Model: "m"})
	if err == nil {
		_ = s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "window") {
		t.Errorf("opened with %v", err)
	}
}

// Whatever its user does, nothing is left of a stream: synctest fails if a
// goroutine stays.
func TestStreamIsLeft(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leave func(s *sallyport.Stream, cancel context.CancelFunc)
		want  codes.Code
	}{
		{"cancelled", func(_ *sallyport.Stream, cancel context.CancelFunc) { cancel() }, codes.Canceled},
		{"closed", func(s *sallyport.Stream, _ context.CancelFunc) { _ = s.Close() }, codes.Canceled},
		{"deadline", func(*sallyport.Stream, context.CancelFunc) { time.Sleep(2 * time.Minute) }, codes.DeadlineExceeded},
	} {
		for name, rpc := range map[string]func(serverStream) error{
			"while batches are under way": func(s serverStream) error {
				<-s.Context().Done()
				// The client's own deadline passes in the same moment: either may be first.
				return status.FromContextError(s.Context().Err()).Err()
			},
			"while results lie there": echo,
			"between attempts":        func(serverStream) error { return status.Error(codes.Unavailable, "gone") },
		} {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					server := &script{rpc: func(_ int, _ *inferencev1.StreamOpen, s serverStream) error {
						return errors.Join(accept(s), rpc(s))
					}}
					s, err := sallyport.OpenStream(ctx, serveInMemory(t, server), sallyport.StreamConfig{
						Model: "m", Retry: sallyport.Retry{Attempts: 1000, Backoff: time.Second, MaxBackoff: time.Second},
					})
					if err != nil {
						t.Fatal(err)
					}
					for i := range window {
						if _, err := s.Send(number(int64(i + 1))); err != nil {
							t.Fatal(err)
						}
					}
					synctest.Wait()
					tt.leave(s, cancel)
					for err == nil {
						_, err = s.Recv()
					}
					want := tt.want
					if name == "between attempts" && want == codes.DeadlineExceeded {
						want = codes.Unavailable // a deadline that passes in a pause is not waited for
					}
					if status.Code(err) != want {
						t.Errorf("ended with %v", err)
					}
				})
			})
		}
	}
}

// A server that was never there is not waited for.
func TestStreamFirstConnection(t *testing.T) {
	conn, err := grpc.NewClient("passthrough:///nowhere",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	began := time.Now()
	if _, err := sallyport.OpenStream(t.Context(), conn, sallyport.StreamConfig{Model: "m"}); status.Code(err) != codes.Unavailable {
		t.Errorf("opened: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second { // the retries of a stream reach over 20 s
		t.Errorf("took %v", took)
	}
}
