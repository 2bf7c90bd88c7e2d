package interceptors_test

import (
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// opened is a stream of the workload on which the model is open.
func (w *world) opened(t *testing.T, path, model string) inferencev1.PredictionService_PredictStreamClient {
	t.Helper()
	stream, err := inferencev1.NewPredictionServiceClient(w.dial(t, path)).PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(openStream(model)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	return stream
}

func sendBatch(t *testing.T, stream inferencev1.PredictionService_PredictStreamClient, sequence uint64, inputs map[string]*inferencev1.Tensor) {
	t.Helper()
	if err := stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
		Batch: &inferencev1.StreamBatch{Sequence: sequence, Inputs: inputs},
	}}); err != nil {
		t.Fatal(err)
	}
}

// A policy that comes while the one before decides is not missed by a stream that
// then idles.
func TestReloadDuringADecision(t *testing.T) {
	var during atomic.Pointer[func()]
	w := newWorld(t, worldOptions{change: func(cfg *interceptors.Config) {
		load := cfg.Policy
		cfg.Policy = func() *policy.Index {
			ix := load()
			if f := during.Swap(nil); f != nil {
				(*f)()
			}
			return ix
		}
	}})
	stream, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.hung(t, inferencev1.PredictionService_PredictStream_FullMethodName)
	time.Sleep(100 * time.Millisecond) // the method is allowed; now the message is
	rechecked := make(chan int, 1)
	reload := func() {
		w.setPolicy(t, strings.Replace(worldPolicy, "models: [breast-cancer, ", "models: [", 1)) // the method stays allowed
		go func() { rechecked <- w.chain.Recheck() }()
		time.Sleep(100 * time.Millisecond) // it has looked, or waits
	}
	during.Store(&reload)
	if err := stream.Send(openStream("breast-cancer")); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- drain(func() error { _, err := stream.Recv(); return err }) }()
	select {
	case err := <-ended:
		if reasonOf(status.Convert(err)) != interceptors.PolicyDenied {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(2 * time.Second):
		t.Error("a stream goes on that the policy does not allow")
	}
	<-rechecked
}

// A panic of the shadow policy ends one call, with its record, and nothing else.
func TestShadowPanics(t *testing.T) {
	var armed atomic.Bool
	w := newWorld(t, worldOptions{change: func(cfg *interceptors.Config) {
		cfg.Shadow = func() *policy.Index {
			if armed.Load() {
				panic("in the shadow")
			}
			return nil
		}
	}})
	client := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage"))
	armed.Store(true)
	if _, err := client.Predict(t.Context(), good()); status.Code(err) != codes.Internal {
		t.Errorf("answered with %v", err)
	}
	w.chain.Recheck() // does not hang
	armed.Store(false)
	if _, err := client.Predict(t.Context(), good()); err != nil {
		t.Error(err)
	}
	if records := w.recorded(t, func(*auditv1.Record) bool { return true }); len(records) != 2 {
		t.Errorf("records %v", records)
	}
}

// Batches that a quota refuses are held back like other refusals that cost nothing.
func TestRefusedBatchesAreHeldBack(t *testing.T) {
	w := newWorld(t, worldOptions{})
	stream := w.opened(t, "/poor/a", "breast-cancer")
	const batches = 230 // 200 refusals are free, then it is 20 a second
	start := time.Now()
	go func() {
		for i := range uint64(batches) {
			_ = stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
				Batch: &inferencev1.StreamBatch{Sequence: i + 1, Inputs: good().GetInputs()},
			}})
		}
	}()
	for range batches {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("%d batches were answered in %v", batches, took)
	}
}

// Rows that are claimed and refused do not turn the sum over.
func TestClaimedRowsOnRecord(t *testing.T) {
	w := newWorld(t, worldOptions{})
	stream := w.opened(t, "/clinic/triage", "breast-cancer")
	claim := good().GetInputs()
	for _, in := range claim {
		in.Shape[0] = math.MaxInt64
	}
	for i := range uint64(2) {
		sendBatch(t, stream, i+1, claim)
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	_ = stream.CloseSend()
	if err := drain(func() error { _, err := stream.Recv(); return err }); err != nil {
		t.Fatal(err)
	}
	records := w.recorded(t, func(*auditv1.Record) bool { return true })
	if len(records) != 1 || records[0].GetRowsReceived() != math.MaxInt64 {
		t.Errorf("records %v", records)
	}
}

// Which model a stream asked for is on record, also if it is about another one.
func TestSecondModelOnRecord(t *testing.T) {
	w := newWorld(t, worldOptions{})
	stream := w.opened(t, "/clinic/triage", "breast-cancer")
	if err := stream.Send(openStream("secret-model")); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Recv()
	if reasonOf(status.Convert(err)) != interceptors.PolicyDenied {
		t.Errorf("ended with %v", err)
	}
	records := w.recorded(t, func(*auditv1.Record) bool { return true })
	if len(records) != 1 || records[0].GetModel() != "breast-cancer" || !strings.Contains(records[0].GetDetail(), `"secret-model"`) {
		t.Errorf("records %v", records)
	}
}

// A key that is withdrawn ends the open calls of its tokens, and no others.
func TestWithdrawnKey(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	users, err := usertoken.New(t.Context(), usertoken.Config{OIDC: []usertoken.OIDC{{
		Issuer: issuer.URL(), Audiences: []string{audience}, CAFile: issuer.CAFile(), RefreshInterval: 50 * time.Millisecond,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = users.Close() })
	w := newWorld(t, worldOptions{users: users})
	open := func(key string) inferencev1.PredictionService_PredictStreamClient {
		ctx := onBehalf(t.Context(), "Bearer "+issuer.Key(key).Token(t, issuer.Claims(audience)))
		stream, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).PredictStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(openStream("breast-cancer")); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	idle, active, other := open("ec-1"), open("ec-1"), open("ec-2")
	if n := w.chain.RecheckUsers(t.Context()); n != 0 {
		t.Fatalf("%d calls ended", n)
	}
	issuer.Withdraw("ec-1")
	time.Sleep(300 * time.Millisecond) // more than the keys are kept for
	sendBatch(t, active, 1, good().GetInputs())
	if _, err := active.Recv(); reasonOf(status.Convert(err)) != interceptors.TokenInvalid {
		t.Errorf("a batch was answered with %v", err)
	}
	if n := w.chain.RecheckUsers(t.Context()); n != 1 {
		t.Errorf("%d calls ended, want 1", n)
	}
	if _, err := idle.Recv(); reasonOf(status.Convert(err)) != interceptors.TokenInvalid {
		t.Errorf("the idle stream ended with %v", err)
	}
	sendBatch(t, other, 1, good().GetInputs())
	if _, err := other.Recv(); err != nil {
		t.Errorf("a stream of another key: %v", err)
	}
}
