package interceptors_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

const poorPolicy = `"requests";q=3;w=300, "rows";q=6;w=600;qu="rows"`

// limitsIn are the two headers.
func limitsIn(header metadata.MD) [2]string {
	return [2]string{
		strings.Join(header.Get(interceptors.RateLimitPolicyHeader), "|"),
		strings.Join(header.Get(interceptors.RateLimitHeader), "|"),
	}
}

// Answers, refusals by a quota and streams say what the caller may use and has
// left.
func TestRateLimitHeaders(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := inferencev1.NewPredictionServiceClient(w.dial(t, "/poor/x"))
	request := good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(3) })
	for i, want := range []string{
		`"requests";r=2;t=100, "rows";r=3;t=300`,
		`"requests";r=1;t=200, "rows";r=0;t=600`,
		`"requests";r=1;t=200, "rows";r=0;t=600`, // refused
	} {
		var header metadata.MD
		_, err := client.Predict(t.Context(), request, grpc.Header(&header))
		if refused := i == 2; (err != nil) != refused {
			t.Fatalf("call %d: %v", i, err)
		}
		if diff := cmp.Diff([2]string{poorPolicy, want}, limitsIn(header)); diff != "" {
			t.Errorf("call %d (-want +got):\n%s", i, diff)
		}
		if len(header.Get(interceptors.CallIDHeader)) != 1 {
			t.Errorf("call %d: %v", i, header)
		}
	}

	s, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/poor/y")).PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(open(good())); err != nil {
		t.Fatal(err)
	}
	header, err := s.Header()
	if err != nil {
		t.Fatal(err)
	}
	want := [2]string{poorPolicy, `"requests";r=2;t=100, "rows";r=6`}
	if diff := cmp.Diff(want, limitsIn(header)); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
	if len(header.Get(interceptors.CallIDHeader)) != 1 {
		t.Errorf("stream: %v", header)
	}

	// Who is refused before the quota learns nothing of it, and has a call id.
	header = nil
	_, err = inferencev1.NewPredictionServiceClient(w.dial(t, "/nobody")).Predict(t.Context(), good(), grpc.Header(&header))
	if err == nil || limitsIn(header) != [2]string{} || len(header.Get(interceptors.CallIDHeader)) != 1 {
		t.Errorf("%v: %v", err, header)
	}
}

// The record has the bytes of both ways and the time that the model ran.
func TestRecordHasBytesAndModelTime(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage"))
	request := good()
	answer, err := client.Predict(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	rec := w.only(t, func(r *auditv1.Record) bool { return r.GetAction() == "PREDICT" })
	if rec.GetBytesReceived() != size(request) || rec.GetBytesSent() != size(answer) || rec.GetModelDuration().AsDuration() <= 0 {
		t.Errorf("record %v", rec)
	}
	s, err := client.PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent, received := uint64(0), uint64(0)
	for _, m := range []*inferencev1.PredictStreamRequest{open(good()), batch(1, good()), batch(2, good())} {
		sent += size(m)
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := drain(func() error {
		m, err := s.Recv()
		received += size(m)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	rec = w.only(t, func(r *auditv1.Record) bool { return r.GetAction() == "PREDICT_STREAM" })
	if rec.GetBytesReceived() != sent || rec.GetBytesSent() != received || rec.GetModelDuration().AsDuration() <= 0 {
		t.Errorf("%d bytes sent, %d received; record %v", sent, received, rec)
	}
}

func size(m proto.Message) uint64 { return uint64(proto.Size(m)) }
