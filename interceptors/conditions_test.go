package interceptors_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// A condition sees what the message asks for, unary and on a stream, and what it
// made of it is on record.
func TestConditions(t *testing.T) {
	conditional := func(when string) string {
		return `
roles:
  - name: r
    rules: [{actions: [PREDICT, PREDICT_STREAM], models: [breast-cancer], when: "` + when + `"}]
    limits: {requests_per_second: 1000, rows_per_second: 1000, max_rows_per_request: 100, max_streams: 9}
bindings: [{role: r, callers: ["spiffe://sallyport.test/clinic/*"]}]
`
	}
	for _, tt := range []struct {
		name, when string
		rows       int
		code       codes.Code
		decision   string
	}{
		{name: "few rows", when: "rows <= 2", rows: 2, decision: "ALLOWED"},
		{name: "too many rows", when: "rows <= 2", rows: 3, code: codes.PermissionDenied, decision: "NOT_GRANTED"},
		{name: "this model", when: "model == 'breast-cancer'", rows: 1, decision: "ALLOWED"},
		{name: "the caller's path", when: "caller.path.startsWith('/ward/')", rows: 1, code: codes.PermissionDenied, decision: "NOT_GRANTED"},
		{name: "the caller's address", when: "caller.address == '127.0.0.1'", rows: 1, decision: "ALLOWED"},
		{name: "the time", when: "now < timestamp('2020-01-01T00:00:00Z')", rows: 1, code: codes.PermissionDenied, decision: "NOT_GRANTED"},
		{name: "an error", when: "user.groups[0] == 'doctors'", rows: 1, code: codes.PermissionDenied, decision: "CONDITION_FAILED"},
	} {
		t.Run(tt.name+"/unary", func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			w.setPolicy(t, conditional(tt.when))
			request := good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(tt.rows) })
			_, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).Predict(t.Context(), request)
			w.decided(t, err, tt.code, tt.decision, uint64(tt.rows))
		})
		t.Run(tt.name+"/stream", func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			w.setPolicy(t, conditional(tt.when))
			stream, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).PredictStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(openStream("breast-cancer"))
			_ = stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
				Batch: &inferencev1.StreamBatch{Sequence: 1, Inputs: map[string]*inferencev1.Tensor{"features": rows(tt.rows)}},
			}})
			_ = stream.CloseSend()
			err = drain(func() error { _, err := stream.Recv(); return err })
			w.decided(t, err, tt.code, tt.decision, 0)
		})
	}
}

// decided holds the answer and the one record against what is expected; rows of 0
// are not looked at.
func (w *world) decided(t *testing.T, err error, code codes.Code, decision string, rows uint64) {
	t.Helper()
	reason := interceptors.Reason("")
	if code != codes.OK {
		reason = interceptors.PolicyDenied
	}
	if st := status.Convert(err); st.Code() != code || reasonOf(st) != reason {
		t.Errorf("answered with %v", err)
	}
	records := w.recorded(t, func(*auditv1.Record) bool { return true })
	if len(records) != 1 || records[0].GetDecision() != decision || rows != 0 && records[0].GetRowsReceived() != rows {
		t.Errorf("records %v, want decision %s", records, decision)
	}
}

// A listing asks the policy about each model, with user and time.
func TestListingKnowsTheTime(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.setPolicy(t, `
roles:
  - name: r
    rules:
      - {actions: [DESCRIBE], models: [breast-cancer], when: "now > timestamp('2020-01-01T00:00:00Z')"}
      - {actions: [DESCRIBE], models: [digits], when: "user.present"}
    limits: {requests_per_second: 1000, rows_per_second: 1000}
bindings: [{role: r, callers: ["spiffe://sallyport.test/clinic/*"]}]
`)
	w.ahead.Store(int64(time.Minute))
	answer, err := inferencev1.NewModelServiceClient(w.dial(t, "/clinic/triage")).ListModels(t.Context(), &inferencev1.ListModelsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.GetModels()) != 1 || answer.GetModels()[0].GetName() != "breast-cancer" {
		t.Errorf("models %v", answer.GetModels())
	}
}
