package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Models and policy change while calls are made, and no caller notices.
func TestChangesUnderLoad(t *testing.T) {
	dir := shortDir(t)
	write(t, dir+"/policy.yaml", generous)
	s := startDev(t, dir)
	answers := &answers{codes: map[string]codes.Code{}}
	load := answers.load(t, s, "clinic", "clinic")
	defer load.stop()
	load.warm(t, s)
	watcher := s.as(t, "clinic")
	used := func() string {
		answer, err := watcher.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Version: 2, Inputs: measurements(1)})
		if err != nil {
			t.Error(err)
		}
		return answer.GetDigest()
	}
	for round := range 10 {
		before := used()
		// Both versions have the same signature: each can stand in for the other.
		artifact, err := os.ReadFile(fmt.Sprintf("../../examples/models/breast-cancer/%d/model.onnx", 1+round%2))
		if err != nil {
			t.Fatal(err)
		}
		replace(t, dir+"/models/breast-cancer/2/model.onnx", string(artifact))
		replace(t, dir+"/policy.yaml", fmt.Sprintf("%s# changed %d times\n", generous, round+1))
		eventually(t, func() error {
			if used() == before {
				return fmt.Errorf("the artefact was replaced, and %s still runs", before)
			}
			if got, want := s.metrics(t).value("sallyport_policy_generation"), float64(round+2); got != want {
				return fmt.Errorf("policy generation %v, want %v", got, want)
			}
			return nil
		})
	}
	load.stop()
	for id, code := range answers.codes {
		if code != codes.OK {
			t.Errorf("call %s: %v", id, code)
		}
	}
	t.Logf("%d calls", len(answers.codes))
}

// replace puts a file in the place of another at one blow.
func replace(t testing.TB, path, content string) {
	t.Helper()
	next := filepath.Join(filepath.Dir(path), ".next")
	write(t, next, content)
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// A caller that keeps its connection goes on when its SVID has ended and a new
// one is there, although the Workload API was away in between. A stream does
// not outlive the SVID that opened it.
func TestIdentityIsRenewed(t *testing.T) {
	dir := newConfig(t, "")
	authority := startAuthority(t, dir, 5*time.Second)
	s := startServe(t, dir)
	c := s.as(t, "clinic")
	first := c.source.NotAfter()
	if _, err := c.predict(t.Context(), breastCancer); err != nil {
		t.Fatal(err)
	}
	stream, _, err := c.open(t.Context(), breastCancer)
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Close(); err != nil {
		t.Fatal(err)
	}
	startAuthority(t, dir, time.Hour)

	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	select {
	case err := <-ended:
		if time.Now().Before(first.Add(-time.Second)) {
			t.Errorf("the stream ended before its caller's SVID: %v", err)
		}
	case <-time.After(patience):
		t.Errorf("the stream goes on %v after its caller's SVID", time.Since(first))
	}
	eventually(t, func() error {
		if time.Now().Before(first) {
			return fmt.Errorf("the SVID is good until %v", first)
		}
		_, err := c.predict(t.Context(), breastCancer)
		return err
	})
}
