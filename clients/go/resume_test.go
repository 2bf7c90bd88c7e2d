package sallyport_test

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// A server goes away in the middle of a stream and comes back: every batch has
// its result, once, and no call fails.
func TestServerComesBack(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*testing.T, *running)
	}{
		{"drained", func(t *testing.T, r *running) {
			if err := r.close(); err != nil {
				t.Error(err)
			}
		}},
		{"killed", func(t *testing.T, r *running) { r.kill(t) }},
	} {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ordered %v", tt.name, ordered), func(t *testing.T) {
				w := newWorld(t, time.Hour)
				server := w.start(t)
				c := w.as(t, "clinic", sallyport.Config{Retry: sallyport.Retry{Attempts: 20, MaxBackoff: time.Second}})
				s, err := c.Stream(t.Context(), sallyport.StreamConfig{Model: breastCancer, Ordered: ordered})
				if err != nil {
					t.Fatal(err)
				}
				stop := make(chan struct{})
				var sending sync.WaitGroup
				var sent uint64
				sending.Go(func() {
					var err error
					if sent, err = feed(s, 0, stop, time.Millisecond); err != nil {
						t.Errorf("send: %v", err)
					}
				})
				calls := 0
				sending.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
						if _, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}); err != nil {
							t.Errorf("call %d: %v", calls, err)
							return
						}
						calls++
					}
				})
				var restarting sync.WaitGroup
				restarting.Go(func() {
					defer close(stop)
					for rpcs := range 3 {
						// It is under way again.
						eventually(t, func() error {
							if n := len(s.CallIDs()); n <= rpcs {
								return fmt.Errorf("%d RPCs", n)
							}
							return nil
						})
						time.Sleep(50 * time.Millisecond)
						tt.end(t, server)
						server = w.start(t)
					}
					time.Sleep(50 * time.Millisecond)
				})
				got, err := collect(s, ordered)
				restarting.Wait()
				sending.Wait()
				if !errors.Is(err, io.EOF) || uint64(len(got)) != sent || sent < 20 {
					t.Errorf("%d results of %d batches: %v", len(got), sent, err)
				}
				t.Logf("%d batches over %d RPCs, %d calls", sent, len(s.CallIDs()), calls)
			})
		}
	}
}
