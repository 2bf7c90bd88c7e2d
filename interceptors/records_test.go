package interceptors_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// only returns the one record that matches.
func (w *world) only(t *testing.T, match func(*auditv1.Record) bool) *auditv1.Record {
	t.Helper()
	records := w.recorded(t, match)
	if len(records) != 1 {
		t.Fatalf("%d records, want exactly one: %v", len(records), records)
	}
	return records[0]
}

func TestAnsweredCallIsRecorded(t *testing.T) {
	w := newWorld(t, worldOptions{})
	var header metadata.MD
	r, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).Predict(t.Context(), good(), grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Join(header.Get(interceptors.CallIDHeader), "")
	rec := w.only(t, func(r *auditv1.Record) bool { return r.GetCallId() == id })
	if rec.GetCode() != 0 || rec.GetReason() != "" || rec.GetAction() != "PREDICT" || rec.GetModel() != "breast-cancer" ||
		rec.GetModelVersion() != r.GetVersion() || rec.GetModelDigest() != r.GetDigest() || rec.GetRowsReceived() != 1 || rec.GetRowsRun() != 1 ||
		rec.GetMessagesReceived() != 1 || rec.GetMessagesSent() != 1 || strings.Join(rec.GetRoles(), ",") != "reader" ||
		rec.GetCaller().GetSpiffeId() != "spiffe://sallyport.test/clinic/triage" || len(rec.GetInputDigest()) != 32 {
		t.Errorf("record %v", rec)
	}
}

// TestDigestIsOfTheValues shows that the digest does not depend on how the
// values were sent, but on each of them.
func TestDigestIsOfTheValues(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage"))
	typed := input(func(t *inferencev1.Tensor) { t.Raw, t.FloatValues = nil, make([]float32, 30) })
	var digests []string
	for _, r := range []*inferencev1.PredictRequest{good(), typed, value(0.5)} {
		var header metadata.MD
		if _, err := client.Predict(t.Context(), r, grpc.Header(&header)); err != nil {
			t.Fatal(err)
		}
		id := strings.Join(header.Get(interceptors.CallIDHeader), "")
		digests = append(digests, string(w.only(t, func(r *auditv1.Record) bool { return r.GetCallId() == id }).GetInputDigest()))
	}
	if digests[0] != digests[1] || digests[0] == digests[2] {
		t.Errorf("digests %x", digests)
	}
}

func TestStreamIsRecordedOnceWithItsCounts(t *testing.T) {
	w := newWorld(t, worldOptions{})
	s, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *inferencev1.PredictStreamRequest) {
		t.Helper()
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	send(open(good()))
	for i := range uint64(5) {
		r := good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(int(i) + 1) })
		if i == 3 {
			r = value(-1)
		}
		send(batch(i, r))
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := drain(func() error { _, err := s.Recv(); return err }); err != nil {
		t.Fatal(err)
	}
	rec := w.only(t, func(r *auditv1.Record) bool { return r.GetAction() == "PREDICT_STREAM" })
	if rec.GetCode() != 0 || rec.GetMessagesReceived() != 6 || rec.GetMessagesSent() != 6 || rec.GetRowsReceived() != 1+2+3+1+5 ||
		rec.GetRowsRun() != 1+2+3+5 || rec.GetRefused()["CONTRACT_VIOLATED"] != 1 || len(rec.GetRefused()) != 1 || len(rec.GetInputDigest()) != 32 {
		t.Errorf("record %v", rec)
	}
}

// TestEndedBeforeTheGates is of RPCs that grpc-go ends between the door and the
// gates.
func TestEndedBeforeTheGates(t *testing.T) {
	w := newWorld(t, worldOptions{})
	answer := rawRPC{
		path:    inferencev1.PredictionService_Predict_FullMethodName,
		headers: map[string]string{"grpc-encoding": "gzip"},
		body:    goodBody(false),
	}.call(t, w.address, w.creds(t, "/clinic/triage"))
	if answer["grpc-status"] != "12" {
		t.Errorf("answer %v", answer)
	}
	rec := w.only(t, func(r *auditv1.Record) bool { return strings.HasSuffix(r.GetMethod(), "/Predict") })
	if rec.GetReason() != string(interceptors.Cancelled) || rec.GetCaller().GetSpiffeId() == "" || !strings.Contains(rec.GetDetail(), "before the gates") {
		t.Errorf("record %v", rec)
	}
}

func TestCancelledCallIsRecorded(t *testing.T) {
	for _, method := range []string{"Hang", "HangStream"} {
		t.Run(method, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			conn := w.dial(t, "/inspector")
			ctx, cancel := context.WithCancel(t.Context())
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/sallyport.test.Faults/"+method)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.SendMsg(&healthv1.HealthListRequest{}), s.CloseSend()); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(50*time.Millisecond, cancel)
			if err := s.RecvMsg(&healthv1.HealthListRequest{}); status.Code(err) != codes.Canceled {
				t.Fatal(err)
			}
			rec := w.only(t, func(r *auditv1.Record) bool { return strings.HasSuffix(r.GetMethod(), method) })
			if rec.GetReason() != string(interceptors.Cancelled) || rec.GetCode() != uint32(codes.Canceled) {
				t.Errorf("record %v", rec)
			}
		})
	}
}

// TestRowsThatDidNotRunAreGivenBack has a caller with a burst of six rows send
// requests of five that violate the contract: each pays with a request, none
// with rows.
func TestRowsThatDidNotRunAreGivenBack(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := inferencev1.NewPredictionServiceClient(w.dial(t, "/poor/x"))
	bad := value(-1)
	bad.GetInputs()["features"].Shape[0] = 5
	bad.GetInputs()["features"].Raw = append(bad.GetInputs()["features"].GetRaw(), make([]byte, 4*120)...)
	for range 2 {
		if _, err := client.Predict(t.Context(), bad); status.Code(err) != codes.InvalidArgument {
			t.Fatal(err)
		}
	}
	_, err := client.Predict(t.Context(), good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(5) }))
	if err != nil {
		t.Errorf("the rows of refused requests were kept: %v", err)
	}
}

// TestPolicyHoldsForOpenStreams takes a role away while a stream is open.
func TestPolicyHoldsForOpenStreams(t *testing.T) {
	w := newWorld(t, worldOptions{})
	s, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(open(good())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	w.setPolicy(t, strings.ReplaceAll(worldPolicy, "clinic", "elsewhere"))
	if err := s.Send(batch(1, good())); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after the policy changed: %v", err)
	}
}

// TestOverallHealthIsForEveryRole, single services and listings for INTROSPECT.
func TestOverallHealthIsForEveryRole(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for _, c := range []struct {
		caller, service string
		want            codes.Code
	}{
		{"/clinic/triage", "", codes.OK},
		{"/clinic/triage", "sallyport.inference.v1.PredictionService", codes.PermissionDenied},
		{"/intern", "", codes.PermissionDenied},
		{"/inspector", "sallyport.inference.v1.PredictionService", codes.OK},
		{"/inspector", "absent", codes.NotFound},
	} {
		_, err := healthv1.NewHealthClient(w.dial(t, c.caller)).Check(t.Context(), &healthv1.HealthCheckRequest{Service: c.service})
		if status.Code(err) != c.want {
			t.Errorf("%s asks for %q: %v, want %s", c.caller, c.service, err, c.want)
		}
	}
}

// TestListShowsOnlyWhatMayBeDescribed holds for pages too.
func TestListShowsOnlyWhatMayBeDescribed(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for caller, want := range map[string]string{
		"/clinic/triage": "breast-cancer ticket-routing",
		"/admin":         "breast-cancer digits ticket-routing",
	} {
		var names []string
		r := &inferencev1.ListModelsRequest{PageSize: 1}
		for {
			page, err := inferencev1.NewModelServiceClient(w.dial(t, caller)).ListModels(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range page.GetModels() {
				names = append(names, m.GetName())
			}
			if page.GetNextPageToken() == "" {
				break
			}
			r = proto.CloneOf(r)
			r.PageToken = page.GetNextPageToken()
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s sees %q, want %q", caller, got, want)
		}
	}
}

// TestModelOfTheRecordIsTheOneThatRan has a caller name another model on a
// stream that has one.
func TestModelOfTheRecordIsTheOneThatRan(t *testing.T) {
	w := newWorld(t, worldOptions{})
	s, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*inferencev1.PredictRequest{good(), modelOf("made-up")} {
		if err := s.Send(open(r)); err != nil {
			t.Fatal(err)
		}
	}
	if err := drain(func() error { _, err := s.Recv(); return err }); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	rec := w.only(t, func(r *auditv1.Record) bool { return r.GetAction() == "PREDICT_STREAM" })
	if rec.GetModel() != "breast-cancer" || rec.GetReason() != string(interceptors.PolicyDenied) {
		t.Errorf("record %v", rec)
	}
}

// TestRefusalsAreThrottled has a caller without a role call as fast as it can:
// past the burst its refusals come at the rate of unpaid calls.
func TestRefusalsAreThrottled(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := inferencev1.NewPredictionServiceClient(w.dial(t, "/intern"))
	start := time.Now()
	for range 230 {
		if _, err := client.Predict(t.Context(), good()); status.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("230 refusals took %v", took)
	}
}
