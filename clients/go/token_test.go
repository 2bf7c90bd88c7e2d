package sallyport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
)

// desk knows tokens that were handed out with the time of their end.
type desk struct {
	life   time.Duration
	issued atomic.Int64
	shown  atomic.Int64 // how many different ones
	last   atomic.Value
}

func (d *desk) issue(context.Context) (string, error) {
	return fmt.Sprintf("%d.%d", d.issued.Add(1), time.Now().Add(d.life).UnixNano()), nil
}

func (d *desk) Verify(_ context.Context, token string) (*identity.User, error) {
	var n, end int64
	if _, err := fmt.Sscanf(token, "%d.%d", &n, &end); err != nil {
		return nil, identity.ErrTokenInvalid
	}
	if d.last.Swap(token) != token {
		d.shown.Add(1)
	}
	user := &identity.User{Issuer: "https://desk.test", Subject: "alice", NotAfter: time.Unix(0, end)}
	if user.Expired(time.Now()) {
		return nil, identity.ErrTokenExpired
	}
	return user, nil
}

// Every call shows a token of its own, and a stream that outlives its token goes
// on with another.
func TestToken(t *testing.T) {
	d := &desk{life: 500 * time.Millisecond}
	w := newWorld(t, time.Hour)
	w.users = d
	w.start(t)
	c := w.as(t, "clinic", sallyport.Config{Token: d.issue})
	for range 3 {
		if _, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.shown.Load(); n != 3 {
		t.Errorf("%d tokens for 3 calls", n)
	}
	s, err := c.Stream(t.Context(), sallyport.StreamConfig{Model: breastCancer})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	time.AfterFunc(2*time.Second, func() { close(stop) })
	sent := make(chan uint64, 1)
	go func() {
		n, err := feed(s, 0, stop, 10*time.Millisecond)
		if err != nil {
			t.Errorf("send: %v", err)
		}
		sent <- n
	}()
	got, err := collect(s, false)
	if n := <-sent; !errors.Is(err, io.EOF) || uint64(len(got)) != n || n < 10 {
		t.Errorf("%d results of %d batches: %v", len(got), n, err)
	}
	if n := len(s.CallIDs()); n < 3 {
		t.Errorf("%d RPCs", n)
	}
}

// A token that is not accepted is not tried again, and none is told.
func TestTokenFails(t *testing.T) {
	const secret = "very-secret"
	w := newWorld(t, time.Hour)
	w.users = &desk{}
	w.start(t)
	for name, tt := range map[string]struct {
		token func(context.Context) (string, error)
		want  string
		asked int
	}{
		"refused":            {func(context.Context) (string, error) { return secret, nil }, "token is not accepted", 1},
		"always expired":     {(&desk{life: -time.Second}).issue, "token has expired", 2},
		"cannot be a header": {func(context.Context) (string, error) { return secret + "\n" + secret, nil }, "holds what a header cannot", 1},
		"empty":              {func(context.Context) (string, error) { return "", nil }, "it is empty", 1},
		"none":               {func(context.Context) (string, error) { return "", errors.New("desk is closed") }, "token of the user: desk is closed", 1},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			c := w.as(t, "clinic", sallyport.Config{
				Retry: sallyport.Retry{Attempts: 2, Backoff: time.Millisecond},
				Token: func(ctx context.Context) (string, error) {
					asked++
					return tt.token(ctx)
				},
			})
			_, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)})
			if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("ended with %v, want %q", err, tt.want)
			}
			if asked != tt.asked {
				t.Errorf("asked %d times for a token", asked)
			}
		})
	}
}
