package main_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// A server that is asked to stop says so on its streams, answers what it has
// taken, and ends.
func TestDrain(t *testing.T) {
	s := startServe(t, newSite(t, "bounds: {drain_timeout: 60s}\n"))
	c := s.as(t, "clinic")
	stream, _, err := c.open(t.Context(), breastCancer)
	if err != nil {
		t.Fatal(err)
	}
	const batches = 3
	for i := range batches {
		if err := stream.Send(batch(uint64(i+1), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	// A call whose request is still under way.
	underway, err := c.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		inferencev1.PredictionService_Predict_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	// A server reads what comes over a connection in turn: when this one is
	// answered, it knows of the call before.
	if _, err := c.predict(t.Context(), breastCancer); err != nil {
		t.Fatal(err)
	}

	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	results, told := map[uint64]bool{}, false
	for len(results) < batches || !told {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("results of %v, told %v: %v", results, told, err)
		}
		if answer.GetDraining() != nil {
			told = true
			continue
		}
		if answer.GetResult().GetOutputs() == nil {
			t.Errorf("batch %d: %v", answer.GetResult().GetSequence(), answer.GetResult().GetStatus())
		}
		results[answer.GetResult().GetSequence()] = true
	}
	// The call goes on, and nobody new comes in.
	if err := underway.SendMsg(&inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(underway.CloseSend(), underway.RecvMsg(&inferencev1.PredictResponse{})); err != nil {
		t.Errorf("call under way: %v", err)
	}
	if conn, err := net.Dial("tcp", s.address); err == nil {
		t.Error("the server takes connections while it drains")
		_ = conn.Close()
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("stream: %v", err)
	}
	s.stopped(t)
	if calls := s.calls(t); !slices.Equal(calls, []string{"OK", "OK", "OK"}) {
		t.Errorf("calls on record: %v", calls)
	}
}

// Who does not let go is cut off when the time is up.
func TestDrainTimeout(t *testing.T) {
	s := startServe(t, newSite(t, "bounds: {drain_timeout: 0.5s}\n"))
	stream, _, err := s.as(t, "clinic").open(t.Context(), breastCancer)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); first.GetDraining() == nil {
		t.Errorf("%v, %v", first, err)
	}
	if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("end of the stream: %v", err)
	}
	s.stopped(t)
	if len(s.calls(t)) != 1 {
		t.Errorf("calls on record: %v", s.calls(t))
	}
}

// Who balances load sees that the server drains, and does not keep it from
// ending by looking.
func TestDrainIsSeen(t *testing.T) {
	s := startServe(t, newSite(t, "bounds: {drain_timeout: 60s}\n"))
	clinic := s.as(t, "clinic")
	stream, _, err := clinic.open(t.Context(), breastCancer)
	if err != nil {
		t.Fatal(err)
	}
	health, err := healthv1.NewHealthClient(clinic.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := health.Recv(); answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("health before: %v, %v", answer, err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if answer, err := stream.Recv(); answer.GetDraining() == nil {
		t.Fatalf("stream: %v, %v", answer, err)
	}
	if answer, err := health.Recv(); answer.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v, %v", answer, err)
	}
	if code, body, err := s.get(t.Context(), "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d, %q, %v", code, body, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	s.stopped(t)
}

// stopped fails the test unless the server ends in order, and says so last.
func (s *server) stopped(t testing.TB) {
	t.Helper()
	if err := s.end(patience); err != nil {
		t.Fatal(err)
	}
	all := s.records(t)
	if last := all[len(all)-1]; last.GetDetail() != "server stopped" {
		t.Errorf("last record: %v", last)
	}
}

// calls are the codes of the calls on record.
func (s *server) calls(t testing.TB) []string {
	t.Helper()
	var calls []string
	for _, r := range s.records(t) {
		if r.GetKind() == auditv1.Kind_KIND_CALL {
			calls = append(calls, codes.Code(r.GetCode()).String())
		}
	}
	return calls
}
