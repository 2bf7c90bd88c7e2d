package sallyport_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
)

// The Workload API is away until an SVID has expired, the server's or the client's
// own, and for a while longer: a stream and a call that has the time to wait go on
// when it is back.
func TestWorkloadAPIComesBack(t *testing.T) {
	for name, tt := range map[string]struct {
		servers, clients time.Duration // lives of SVIDs
		cause            error
		text             string
	}{
		"the server's SVID expired": {ttl, time.Hour, identity.ErrServerRefused, "x509: certificate has expired"},
		"our SVID expired":          {time.Hour, ttl, identity.ErrCallerRefused, "our SVID expired at 20"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.servers)
			dir := w.dir
			away := apart(t, w, tt.clients)
			if tt.clients == ttl {
				away, dir = w.authority, w.dir
			}
			predict := func(c *sallyport.Client) error {
				_, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)})
				return err
			}
			hasty := w.as(t, "clinic", sallyport.Config{Retry: sallyport.Retry{Attempts: 1}})
			patient := w.as(t, "clinic", sallyport.Config{Retry: sallyport.Retry{Attempts: 20, MaxBackoff: time.Second}})
			if err := errors.Join(predict(hasty), predict(patient)); err != nil {
				t.Fatal(err)
			}
			s, err := patient.Stream(t.Context(), sallyport.StreamConfig{Model: breastCancer})
			if err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			type end struct {
				n   uint64
				err error
			}
			sent, taken := make(chan end, 1), make(chan end, 1)
			go func() {
				n, err := feed(s, 0, stop, 10*time.Millisecond)
				sent <- end{n, err}
			}()
			go func() {
				got, err := collect(s, false)
				taken <- end{uint64(len(got)), err}
			}()
			if err := away.Close(); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				err := predict(hasty)
				if status.Code(err) == codes.Unavailable && errors.Is(identity.HandshakeCause(err), tt.cause) && strings.Contains(err.Error(), tt.text) {
					return nil
				}
				return errors.Join(errors.New("a call ends otherwise"), err)
			})
			// Longer than a call lasts that does not wait.
			called := make(chan error, 1)
			go func() { called <- predict(patient) }()
			time.Sleep(time.Second)
			rpcs := len(s.CallIDs())
			startAuthority(t, dir, ttl)
			if err := <-called; err != nil {
				t.Errorf("call: %v", err)
			}
			eventually(t, func() error {
				select {
				case result := <-taken:
					t.Fatalf("the stream ended after %d results: %v", result.n, result.err)
				default:
				}
				if len(s.CallIDs()) == rpcs {
					return errors.New("the stream does not go on")
				}
				return nil
			})
			close(stop)
			all, got := <-sent, <-taken
			if all.err != nil || !errors.Is(got.err, io.EOF) || got.n != all.n {
				t.Errorf("%d results of %d batches: %v, %v", got.n, all.n, got.err, all.err)
			}
			t.Logf("%d batches over %d RPCs", all.n, len(s.CallIDs()))
		})
	}
}
