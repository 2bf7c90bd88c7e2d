package sallyport_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Dial and the first call tell at once what will not do.
func TestDial(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.start(t)
	for name, tt := range map[string]struct {
		change func(*sallyport.Config)
		want   string
	}{
		"all is well": {func(*sallyport.Config) {}, ""},
		"no port":     {func(c *sallyport.Config) { c.Servers = []string{"localhost"} }, "must be HOST:PORT"},
		"no workload API": {func(c *sallyport.Config) {
			c.WorkloadAPI, c.StartTimeout = w.dir+"/none.sock", 200*time.Millisecond
		}, "none.sock"},
		"another server": {func(c *sallyport.Config) {
			c.ServerID = func(id spiffeid.ID) error { return errors.New("not " + id.String()) }
		}, "not spiffe://sallyport.test/sallyport"},
		"nobody listens": {func(c *sallyport.Config) { c.Servers = []string{"127.0.0.1:1"} }, "connection refused"},
		"no role":        {func(c *sallyport.Config) { c.WorkloadAPI = w.authority.Socket("intern") }, "PermissionDenied"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := sallyport.Config{Servers: []string{w.address}, WorkloadAPI: w.authority.Socket("clinic"), StartTimeout: patience}
			tt.change(&cfg)
			began := time.Now()
			c, err := sallyport.Dial(t.Context(), cfg)
			if err == nil {
				_, err = c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)})
				if closed := c.Close(); closed != nil {
					t.Error(closed)
				}
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if took := time.Since(began); took > patience/2 {
				t.Errorf("took %v", took)
			}
		})
	}
}

// Close ends what is open, and after it nothing begins.
func TestClose(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.start(t)
	c := w.as(t, "clinic", sallyport.Config{})
	s, err := c.Stream(t.Context(), sallyport.StreamConfig{Model: breastCancer})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err == nil || !strings.Contains(err.Error(), "the client is closed") {
		t.Errorf("stream: %v", err)
	}
	if _, err := c.Predict(t.Context(), &inferencev1.PredictRequest{}); err == nil || !strings.Contains(err.Error(), "the client is closed") {
		t.Errorf("call: %v", err)
	}
	if _, err := c.Stream(t.Context(), sallyport.StreamConfig{}); err == nil || !strings.Contains(err.Error(), "the client is closed") {
		t.Errorf("new stream: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// A call ends with its context and is not made again.
func TestCallIsLeft(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.start(t)
	c := w.as(t, "clinic", sallyport.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Predict(ctx, &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}); status.Code(err) != codes.Canceled {
		t.Errorf("ended with %v", err)
	}
}

// A call that succeeds costs the client no allocation beside gRPC's.
func TestCallsAreCountedWithoutAllocation(t *testing.T) {
	w := newWorld(t, time.Hour)
	c := w.as(t, "clinic", sallyport.Config{Servers: []string{"127.0.0.1:1"}})
	// So many that what the connection allocates meanwhile does not make one of each.
	if n := testing.AllocsPerRun(100_000, func() { sallyport.Count(c) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// What a call through the client costs beside one over gRPC alone.
func BenchmarkPredict(b *testing.B) {
	w := newWorld(b, time.Hour)
	w.start(b)
	c := w.as(b, "clinic", sallyport.Config{})
	r := &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}
	for name, predict := range map[string]func() error{
		"client": func() error {
			_, err := c.Predict(b.Context(), r)
			return err
		},
		"bare": func() error {
			_, err := inferencev1.NewPredictionServiceClient(sallyport.Bare(c)).Predict(b.Context(), r)
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := predict(); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
