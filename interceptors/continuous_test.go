package interceptors_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// openCalls are the ways in which a call can be open. Each returns once the
// server has it, with what waits for its end.
var openCalls = map[string]func(*testing.T, *grpc.ClientConn) (method string, end func() error){
	"unary call that runs": func(t *testing.T, conn *grpc.ClientConn) (string, func() error) {
		const method = "/sallyport.test.Faults/Hang"
		done := make(chan error, 1)
		go func() { done <- conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{}) }()
		return method, func() error { return <-done }
	},
	"stream that waits for its first message": func(t *testing.T, conn *grpc.ClientConn) (string, func() error) {
		stream, err := inferencev1.NewPredictionServiceClient(conn).PredictStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return inferencev1.PredictionService_PredictStream_FullMethodName, func() error {
			_, err := stream.Recv()
			return err
		}
	},
	"stream that waits for its next message": func(t *testing.T, conn *grpc.ClientConn) (string, func() error) {
		stream, err := inferencev1.NewPredictionServiceClient(conn).PredictStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(openStream("breast-cancer")); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		return inferencev1.PredictionService_PredictStream_FullMethodName, func() error {
			_, err := stream.Recv()
			return err
		}
	},
	"watch of health": func(t *testing.T, conn *grpc.ClientConn) (string, func() error) {
		stream, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		return healthv1.Health_Watch_FullMethodName, func() error {
			return drain(func() error { _, err := stream.Recv(); return err })
		}
	},
}

func openStream(model string) *inferencev1.PredictStreamRequest {
	return &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{
		Open: &inferencev1.StreamOpen{Model: model},
	}}
}

// hung waits until the server has a call of the method open.
func (w *world) hung(t *testing.T, method string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if interceptors.OpenCalls(w.chain, method) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not open", method)
		}
	}
}

// A call ends with its connection's identity, wherever it is: with the reason,
// within a second, on record once; then the connection is closed.
func TestCallsEndWithTheIdentity(t *testing.T) {
	for cause, tt := range map[string]struct {
		happens func(*testing.T, *world)
		reason  interceptors.Reason
	}{
		"bundle leaves": {
			happens: func(_ *testing.T, w *world) {
				w.source.SetBundles()
				w.tls.Recheck()
			},
			reason: interceptors.IdentityRevoked,
		},
		"caller is blocked": {
			happens: func(t *testing.T, w *world) {
				w.setPolicy(t, worldPolicy+"blocked: [{callers: ['spiffe://sallyport.test/admin'], reason: stolen key}]\n")
				w.tls.Recheck()
				w.chain.Recheck()
			},
			reason: interceptors.IdentityRevoked,
		},
		"address is blocked": {
			happens: func(t *testing.T, w *world) {
				w.setPolicy(t, worldPolicy+"blocked: [{addresses: ['127.0.0.0/8'], reason: scanner}]\n")
				w.tls.Recheck()
				w.chain.Recheck()
			},
			reason: interceptors.IdentityRevoked,
		},
		"SVID expires": {
			happens: func(*testing.T, *world) {}, // it does by itself
			reason:  interceptors.IdentityExpired,
		},
	} {
		for form, open := range openCalls {
			t.Run(cause+"/"+form, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, worldOptions{})
				svid, end := w.ca.SVID(t, "/admin"), time.Now()
				if tt.reason == interceptors.IdentityExpired {
					end = time.Now().Add(6 * time.Second).Truncate(time.Second)
					svid = w.ca.SVID(t, "/admin", identitytest.Valid(end.Add(-time.Hour), end))
				}
				conn := w.dialWith(t, identitytest.NewSource(svid, w.ca.Bundle()))
				method, ended := open(t, conn)
				w.hung(t, method)
				if tt.reason != interceptors.IdentityExpired {
					end = time.Now()
				}
				tt.happens(t, w)
				got := make(chan error, 1)
				go func() { got <- ended() }()
				var err error
				select {
				case err = <-got:
				case <-time.After(time.Until(end) + 20*time.Second):
					t.Fatal("the call goes on")
				}
				if late := time.Since(end); late > 10*time.Second { // a second, on a machine that is not busy
					t.Errorf("ended %v after the cause", late)
				}
				if st := status.Convert(err); st.Code() != codes.Unauthenticated || reasonOf(st) != tt.reason {
					t.Errorf("ended with %v %s, want %s", st, reasonOf(st), tt.reason)
				}
				records := w.recorded(t, func(r *auditv1.Record) bool { return r.GetMethod() == method })
				if len(records) != 1 || records[0].GetReason() != string(tt.reason) {
					t.Errorf("records %v", records)
				}
				ctx, cancel := context.WithDeadline(t.Context(), end.Add(time.Second))
				defer cancel()
				if conn.GetState() == connectivity.Ready && !conn.WaitForStateChange(ctx, connectivity.Ready) {
					t.Errorf("the connection is open a second after the cause")
				}
			})
		}
	}
}

// A new policy ends the open calls that it does not allow, and no others.
func TestCallsFollowThePolicy(t *testing.T) {
	const narrowed = `
roles:
  - name: left
    rules: [{actions: [PREDICT_STREAM], models: [digits]}]
    limits: {requests_per_second: 1000, rows_per_second: 1000, max_streams: 9}
bindings: [{role: left, callers: ["spiffe://sallyport.test/*"]}]
`
	open := func(t *testing.T, w *world, path, model string) func() error {
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
		return func() error {
			_, err := stream.Recv()
			return err
		}
	}
	w := newWorld(t, worldOptions{})
	taken, left := open(t, w, "/clinic/triage", "breast-cancer"), open(t, w, "/admin", "digits")
	going := make(chan error, 1)
	go func() { going <- left() }()

	if n := w.chain.Recheck(); n != 0 {
		t.Fatalf("%d calls ended under the policy that let them in", n)
	}
	w.setPolicy(t, narrowed)
	if n := w.chain.Recheck(); n != 1 {
		t.Errorf("%d calls ended, want 1", n)
	}
	st := status.Convert(taken())
	if st.Code() != codes.PermissionDenied || reasonOf(st) != interceptors.PolicyDenied {
		t.Errorf("ended with %v %s", st, reasonOf(st))
	}
	records := w.recorded(t, func(r *auditv1.Record) bool { return r.GetModel() == "breast-cancer" })
	if len(records) != 1 || records[0].GetDecision() != policy.NotGranted.String() {
		t.Errorf("records %v", records)
	}
	select {
	case err := <-going:
		t.Errorf("a stream ended that the policy allows: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
}

// What is ready when the identity ends does not leave.
func TestNoAnswerAfterTheIdentity(t *testing.T) {
	w := newWorld(t, worldOptions{})
	conn := w.dial(t, "/admin")
	const method = "/sallyport.test.Faults/Slow"
	done := make(chan error, 1)
	go func() { done <- conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{}) }()
	w.hung(t, method)
	w.source.SetBundles()
	w.tls.Recheck()
	if st := status.Convert(<-done); reasonOf(st) != interceptors.IdentityRevoked {
		t.Errorf("answered with %v %s", st, reasonOf(st))
	}
}

// A shadow policy is asked about every decision, is recorded beside the one
// enforced, and changes nothing.
func TestShadowPolicy(t *testing.T) {
	const nobody = `
roles:
  - name: none
    rules: [{actions: [DESCRIBE], models: [none]}]
    limits: {requests_per_second: 1, rows_per_second: 1}
`
	for _, tt := range []struct {
		name, caller string
		shadow       string
		code         codes.Code
		want         *auditv1.Shadow
	}{
		{name: "none", caller: "/clinic/triage"},
		{name: "agrees", caller: "/clinic/triage", shadow: worldPolicy, want: &auditv1.Shadow{Decision: "ALLOWED"}},
		{
			name: "would deny", caller: "/clinic/triage", shadow: nobody,
			want: &auditv1.Shadow{WouldDeny: 1, Decision: "NO_ROLE", Detail: "no binding matches the caller"},
		},
		{
			name: "would allow", caller: "/nobody", code: codes.PermissionDenied,
			shadow: worldPolicy + `  - {role: reader, callers: ["spiffe://sallyport.test/nobody"]}` + "\n",
			want:   &auditv1.Shadow{WouldAllow: 1, Decision: "ALLOWED"},
		},
		{
			name: "would block", caller: "/clinic/triage",
			shadow: worldPolicy + "blocked: [{callers: ['spiffe://sallyport.test/clinic/*'], reason: planned}]\n",
			want:   &auditv1.Shadow{WouldDeny: 1, Decision: "CALLER_BLOCKED", Detail: "blocked[0] spiffe://sallyport.test/clinic/*: planned"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			if tt.shadow != "" {
				w.shadow.Store(compile(t, tt.shadow))
			}
			_, err := inferencev1.NewPredictionServiceClient(w.dial(t, tt.caller)).Predict(t.Context(), good())
			if status.Code(err) != tt.code {
				t.Fatalf("answered with %v", err)
			}
			records := w.recorded(t, func(*auditv1.Record) bool { return true })
			if len(records) != 1 {
				t.Fatalf("records %v", records)
			}
			got := records[0].GetShadow()
			if diff := cmp.Diff(tt.want.String(), got.String()); (tt.want == nil) != (got == nil) || diff != "" {
				t.Errorf("shadow (-want +got)\n%s", diff)
			}
		})
	}
}

// In the time that an ended connection has for its last words nothing new is
// served on it.
func TestNoNewCallAfterTheIdentity(t *testing.T) {
	w := newWorld(t, worldOptions{})
	conn := w.dial(t, "/clinic/triage")
	client := inferencev1.NewPredictionServiceClient(conn)
	if _, err := client.Predict(t.Context(), good()); err != nil {
		t.Fatal(err)
	}
	if n := interceptors.OpenCalls(w.chain, inferencev1.PredictionService_Predict_FullMethodName); n != 0 {
		t.Errorf("%d calls are remembered after their end", n)
	}
	w.source.SetBundles()
	if n := len(w.tls.Recheck()); n != 1 {
		t.Fatalf("%d sessions ended", n)
	}
	_, err := client.Predict(t.Context(), good())
	if st := status.Convert(err); st.Code() != codes.Unauthenticated || reasonOf(st) != interceptors.IdentityRevoked {
		t.Errorf("answered with %v", err)
	}
	if records := w.recorded(t, func(r *auditv1.Record) bool { return r.GetReason() != "" }); len(records) != 1 {
		t.Errorf("records %v", records)
	}
}

// A message that meets a block before the recheck does is refused like it.
func TestMessageOfABlockedCaller(t *testing.T) {
	w := newWorld(t, worldOptions{})
	stream, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(openStream("breast-cancer")); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	w.setPolicy(t, worldPolicy+"blocked: [{callers: ['spiffe://sallyport.test/clinic/triage'], reason: stolen key}]\n")
	if err := stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
		Batch: &inferencev1.StreamBatch{Sequence: 1, Inputs: good().GetInputs()},
	}}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if st := status.Convert(err); st.Code() != codes.Unauthenticated || reasonOf(st) != interceptors.IdentityRevoked {
		t.Errorf("answered with %v", err)
	}
}
