package main_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// What docs/configuration.md promises is there, counts, and takes no word from a
// caller.
func TestMetrics(t *testing.T) {
	s := startServe(t, newSite(t, ""))
	clinic, intern, outsider := s.as(t, "clinic"), s.as(t, "intern"), s.as(t, "outsider")
	ctx := t.Context()

	const made = "made-up-by-the-caller"
	for range 3 {
		if _, err := clinic.predict(ctx, breastCancer); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{made, made + "\"} 1\nsallyport_" + made + " 1", strings.Repeat(made, 20)} {
		if _, err := clinic.predict(ctx, name); err == nil {
			t.Errorf("model %q was served", name)
		}
	}
	_, denied := intern.predict(ctx, made)
	if status.Code(denied) != codes.PermissionDenied {
		t.Errorf("intern: %v", denied)
	}
	if err := clinic.conn.Invoke(ctx, "/"+made+"/"+made, &inferencev1.PredictRequest{}, &inferencev1.PredictResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
	if _, err := outsider.predict(ctx, made); err == nil {
		t.Error("the outsider was answered")
	}
	if _, err := clinic.streamOnce(ctx, breastCancer); err != nil {
		t.Error(err)
	}

	for _, want := range []struct {
		family string
		labels []string
		value  float64
	}{
		{"sallyport_calls_total", []string{"action", "PREDICT", "model", breastCancer, "reason", ""}, 3},
		{"sallyport_calls_total", []string{"action", "PREDICT", "model", "", "reason", "MODEL_NOT_FOUND"}, 1},
		{"sallyport_calls_total", []string{"action", "PREDICT", "model", "", "reason", "REQUEST_INVALID"}, 2},
		{"sallyport_calls_total", []string{"action", "PREDICT", "model", "", "reason", "POLICY_DENIED"}, 1},
		{"sallyport_calls_total", []string{"action", "", "model", "", "reason", "METHOD_UNKNOWN"}, 1},
		{"sallyport_calls_total", []string{"action", "PREDICT_STREAM", "model", breastCancer, "reason", ""}, 1},
		{"sallyport_calls_total", nil, 9},
		{"sallyport_rows_total", []string{"model", breastCancer}, 4},
		{"sallyport_call_duration_seconds", []string{"action", "PREDICT"}, 7},
		{"sallyport_model_duration_seconds", []string{"model", breastCancer}, 4},
		{"sallyport_policy_generation", nil, 1},
		{"sallyport_policy_stale", nil, 0},
		{"sallyport_model_versions", nil, 4},
		{"sallyport_model_failures", nil, 0},
		{"sallyport_audit_failures_total", nil, 0},
		{"sallyport_audit_queue", nil, 0},
		{"sallyport_runs_waiting", nil, 0},
	} {
		eventually(t, func() error {
			m := s.metrics(t)
			if _, there := m[want.family]; !there {
				return fmt.Errorf("no %s", want.family)
			}
			if got := m.value(want.family, want.labels...); got != want.value {
				return fmt.Errorf("%s%v is %v, want %v", want.family, want.labels, got, want.value)
			}
			return nil
		})
	}
	m := s.metrics(t)
	for _, family := range []string{
		"sallyport_gates_duration_seconds", "sallyport_handshakes_refused_total", "sallyport_svid_expiry_timestamp_seconds",
		"sallyport_quota_callers", "sallyport_audit_commit_seconds", "sallyport_audit_records_total", "go_goroutines", "process_open_fds",
	} {
		if m.value(family) <= 0 {
			t.Errorf("%s is %v", family, m.value(family))
		}
	}
	_, text, err := s.get(ctx, "/metrics")
	if err != nil || strings.Contains(text, made) {
		t.Errorf("metrics tell what a caller made up: %v\n%s", err, text)
	}
	// Who has a role is named, by an identity that was proved; nobody else is.
	if !strings.Contains(text, `sallyport_quota_used_ratio{caller="spiffe://sallyport.test/clinic/triage"`) ||
		strings.Contains(text, `caller="spiffe://sallyport.test/intern"`) || strings.Contains(text, `caller="spiffe://elsewhere`) {
		t.Errorf("who has used how much:\n%s", text)
	}
}
