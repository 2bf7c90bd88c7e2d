//go:build redis

package interceptors_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

const budgetPolicy = `
roles:
  - name: budgeted
    rules: [{actions: [PREDICT, PREDICT_STREAM], models: [breast-cancer]}]
    limits: {requests_per_second: 1000, rows_per_second: 1000, max_streams: 4, budgets: [{period: DAY, rows: 5}]}
  - name: strict
    rules: [{actions: [PREDICT, PREDICT_STREAM], models: [breast-cancer]}]
    limits: {requests_per_second: 1000, rows_per_second: 1000, max_streams: 4}
  - name: lenient
    rules: [{actions: [PREDICT, PREDICT_STREAM], models: [breast-cancer]}]
    limits: {requests_per_second: 1000, rows_per_second: 1000, max_streams: 4, on_store_failure: LOCAL}
bindings:
  - {role: budgeted, callers: ["spiffe://sallyport.test/budgeted"]}
  - {role: strict, callers: ["spiffe://sallyport.test/strict"]}
  - {role: lenient, callers: ["spiffe://sallyport.test/lenient"]}
`

// sharedWorld is a world whose quotas are in a Redis behind a proxy. Each message
// is a round trip, so that a test sees at once what the store does.
func sharedWorld(t *testing.T) (*world, *redistest.Proxy) {
	t.Helper()
	p := redistest.NewProxy(t, redistest.Start(t).Address)
	store, err := redisstore.New(redisstore.Config{Addresses: []string{p.Address}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	l := quota.New(quota.Config{Store: store, Lease: quota.Lease{Share: -1}, Timeout: time.Second})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			t.Error(err)
		}
		_ = store.Close()
	})
	w := newWorld(t, worldOptions{change: func(c *interceptors.Config) { c.Quota = l }})
	w.setPolicy(t, budgetPolicy)
	return w, p
}

// talk makes calls in one form: the error of each, also of a batch of a stream.
func talk(t *testing.T, w *world, caller string, stream bool) func() error {
	client := inferencev1.NewPredictionServiceClient(w.dial(t, caller))
	if !stream {
		return func() error {
			_, err := client.Predict(t.Context(), good())
			return err
		}
	}
	s, err := client.PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(open(good())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	sequence := uint64(0)
	return func() error {
		sequence++
		_ = s.Send(batch(sequence, good())) // Recv says why it failed
		m, err := s.Recv()
		if err != nil {
			return fmt.Errorf("the stream is gone: %w", err)
		}
		return statusOfResult(m.GetResult().GetStatus())
	}
}

func statusOfResult(st *spb.Status) error {
	if st == nil {
		return nil
	}
	return status.ErrorProto(st)
}

func TestBudgetUsedUp(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprint("stream=", stream), func(t *testing.T) {
			w, _ := sharedWorld(t)
			call := talk(t, w, "/budgeted", stream)
			for i := range 5 {
				if err := call(); err != nil {
					t.Fatalf("row %d of 5: %v", i+1, err)
				}
			}
			st := status.Convert(call())
			if st.Code() != codes.ResourceExhausted || reasonOf(st) != interceptors.QuotaBudget {
				t.Fatalf("row 6 of 5: %v", st)
			}
			now := time.Now().UTC()
			left := now.Truncate(24*time.Hour).AddDate(0, 0, 1).Sub(now)
			var named, retry bool
			for _, d := range st.Details() {
				switch d := d.(type) {
				case *errdetails.QuotaFailure:
					v := d.GetViolations()[0]
					named = v.GetSubject() == "day-rows" && strings.Contains(v.GetDescription(), "the budget is 5")
				case *errdetails.RetryInfo:
					off := (d.GetRetryDelay().AsDuration() - left).Abs()
					retry = off < time.Minute || off > 24*time.Hour-time.Minute // midnight passes
				}
			}
			if !named || !retry {
				t.Errorf("details %v", st.Details())
			}
		})
	}
}

// While the store is away each role says what holds, in both forms, and a stream
// outlives it.
func TestStoreAway(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprint("stream=", stream), func(t *testing.T) {
			w, p := sharedWorld(t)
			strict, lenient := talk(t, w, "/strict", stream), talk(t, w, "/lenient", stream)
			for range 2 {
				if err := strict(); err != nil {
					t.Fatal(err)
				}
			}
			p.Cut()
			for range 4 { // before and after the breaker opens
				st := status.Convert(strict())
				if st.Code() != codes.Unavailable || reasonOf(st) != interceptors.QuotaUnavailable {
					t.Errorf("REFUSE: %v", st)
				}
				if err := lenient(); err != nil {
					t.Errorf("LOCAL: %v", err)
				}
			}
			p.Mend()
			for end := time.Now().Add(10 * time.Second); strict() != nil; {
				if time.Now().After(end) {
					t.Fatal("not served again within 10 s")
				}
			}
		})
	}
}
