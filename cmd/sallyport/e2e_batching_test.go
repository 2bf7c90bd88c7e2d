package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Calls of one row that come at the same time are run as one where model.yaml says so:
// each is answered, and metrics and records tell them apart.
func TestCallsAreMerged(t *testing.T) {
	dir := newSite(t, "runtime: {max_queue_delay: 60s}\n")
	models := dir + "/models"
	if err := os.Remove(models); err != nil { // the link to the examples
		t.Fatal(err)
	}
	if err := os.CopyFS(models, os.DirFS("../../examples/models")); err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(models, breastCancer, "model.yaml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	write(t, manifest, string(text)+"\nbatching: {max_rows: 4, max_delay: 1s}\n")
	s := startServe(t, dir)
	clinic := s.as(t, "clinic")
	const calls = 8
	done := make(chan error, calls)
	for range calls {
		go func() {
			_, err := clinic.predict(t.Context(), breastCancer)
			done <- err
		}()
	}
	for range calls {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() error {
		m := s.metrics(t)
		for _, want := range []struct {
			family string
			least  float64
		}{{"sallyport_batch_requests", 1}, {"sallyport_batch_rows", 1}, {"sallyport_run_wait_seconds", 2}, {"sallyport_rows_total", calls}} {
			if got := m.value(want.family, "model", breastCancer); got < want.least {
				return fmt.Errorf("%s is %v, want %v at the least", want.family, got, want.least)
			}
		}
		return nil
	})
	for _, r := range s.records(t) {
		if r.GetModel() != breastCancer {
			continue
		}
		if ran := r.GetModelDuration().AsDuration(); r.GetRowsRun() != 1 || ran <= 0 || ran > r.GetDuration().AsDuration() {
			t.Errorf("call %s: %d rows ran for %v of %v", r.GetCallId(), r.GetRowsRun(), ran, r.GetDuration().AsDuration())
		}
	}
}
