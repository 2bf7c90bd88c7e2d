package sallyport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/devauthority"
)

// ttl is the shortest life of SVIDs that leaves, rounded down to whole seconds, a
// moment after half of it.
const ttl = 3 * time.Second

// SVIDs of both sides rotate several times under calls and a stream, and the key
// that signs them once: none fails, no batch is lost or doubled, and no connection
// stays.
func TestRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ttl)
	server := w.start(t)
	c := w.as(t, "clinic", sallyport.Config{})
	stop := make(chan struct{})
	var working sync.WaitGroup
	var calls atomic.Int64
	for range 2 {
		working.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				if _, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}); err != nil {
					t.Errorf("call: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	s, err := c.Stream(t.Context(), sallyport.StreamConfig{Model: breastCancer})
	if err != nil {
		t.Fatal(err)
	}
	var sent uint64
	working.Go(func() {
		var err error
		if sent, err = feed(s, 0, stop, 5*time.Millisecond); err != nil {
			t.Errorf("send: %v", err)
		}
	})
	working.Go(func() {
		defer close(stop)
		time.Sleep(ttl)
		if err := w.authority.RotateCA(home, 2*ttl); err != nil {
			t.Error(err)
		}
		time.Sleep(3 * ttl)
	})
	got, err := collect(s, false)
	working.Wait()
	if !errors.Is(err, io.EOF) || uint64(len(got)) != sent {
		t.Errorf("%d results of %d batches: %v", len(got), sent, err)
	}
	made, streams := server.listener.accepted(), len(s.CallIDs())
	t.Logf("%d calls, %d batches, %d connections, %d RPCs of the stream", calls.Load(), sent, made, streams)
	if calls.Load() < 100 || sent < 100 || made < 6 || streams < 6 {
		t.Error("too few for four lives of an SVID")
	}
}

// A stream that is held open by its user, or forgotten, ends with the SVID that
// it was begun with, and its connection with it.
func TestForeignStreamEndsWithItsIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ttl)
	w.start(t)
	c := w.as(t, "clinic", sallyport.Config{})
	api := inferencev1.NewPredictionServiceClient(c)
	held, err := api.PredictStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{Open: &inferencev1.StreamOpen{Model: breastCancer}}}
	if err := held.Send(open); err != nil {
		t.Fatal(err)
	}
	if _, err := held.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := api.PredictStream(context.WithoutCancel(t.Context())); err != nil { // and forgotten
		t.Fatal(err)
	}
	began := time.Now()
	_, err = held.Recv()
	if took := time.Since(began); took > ttl+10*time.Second {
		t.Errorf("it ended after %v", took)
	}
	if code := status.Code(err); code != codes.Unauthenticated && code != codes.Unavailable {
		t.Errorf("it ended with %v", err)
	}
	if _, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		if n := sallyport.Generations(c); n != 1 {
			return fmt.Errorf("%d generations of connections", n)
		}
		return nil
	})
}

// If no new connection can be made, the old one goes on, and the new one comes as
// soon as it can.
func TestMoveFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8*time.Second)
	server := w.start(t)
	c := w.as(t, "clinic", sallyport.Config{})
	// from is our end of the connection that a call goes over.
	from := func() string {
		t.Helper()
		var p peer.Peer
		if _, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}, grpc.Peer(&p)); err != nil {
			t.Fatal(err)
		}
		return p.LocalAddr.String()
	}
	first := from()
	server.listener.refuse(true)
	before := server.listener.accepted()
	eventually(t, func() error {
		if server.listener.accepted() < before+2 {
			return errors.New("no attempt to move")
		}
		return nil
	})
	if now := from(); now != first {
		t.Fatalf("calls have moved from %s to %s", first, now)
	}
	server.listener.refuse(false)
	eventually(t, func() error {
		if from() == first {
			return errors.New("calls have not moved")
		}
		return nil
	})
}

// copyKeys copies files that only their user can read.
func copyKeys(to, from string) error {
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// apart starts a server and then gives the world to its clients: another authority
// with the same keys, whose SVIDs hold for ttl. The server's is returned.
func apart(t *testing.T, w *world, ttl time.Duration) *devauthority.Authority {
	t.Helper()
	w.start(t)
	servers, dir := w.authority, shortDir(t)
	if err := copyKeys(dir+"/authority", w.dir+"/authority"); err != nil {
		t.Fatal(err)
	}
	w.dir, w.authority = dir, startAuthority(t, dir, ttl)
	return servers
}

// Only the client rotates: calls and streams leave its SVID when there is a newer
// one, long before it ends.
func TestClientRotates(t *testing.T) {
	t.Parallel()
	const ttl = 12 * time.Second
	w := newWorld(t, time.Hour)
	apart(t, w, ttl)
	var log lines
	c := w.as(t, "clinic", sallyport.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	s, err := c.Stream(t.Context(), sallyport.StreamConfig{Model: breastCancer})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	time.AfterFunc(ttl*3/4, func() { close(stop) })
	sent := make(chan uint64, 1)
	go func() {
		n, err := feed(s, 0, stop, 10*time.Millisecond)
		if err != nil {
			t.Errorf("send: %v", err)
		}
		sent <- n
	}()
	got, err := collect(s, false)
	if n := <-sent; !errors.Is(err, io.EOF) || uint64(len(got)) != n {
		t.Errorf("%d results of %d batches: %v", len(got), n, err)
	}
	if n := len(s.CallIDs()); n != 2 {
		t.Errorf("%d RPCs", n)
	}
	if log.count(`because="we have a newer SVID"`) != 1 {
		t.Error(log.String())
	}
}

// Only the server rotates: calls leave each of its SVIDs before it ends. None is
// made twice here. A connection that was left is closed with its last call.
func TestServerRotates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ttl)
	apart(t, w, time.Hour)
	var log lines
	c := w.as(t, "clinic", sallyport.Config{Retry: sallyport.Retry{Attempts: 1}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := inferencev1.NewPredictionServiceClient(c).PredictStream(ctx); err != nil { // and held
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}); err != nil {
			t.Fatal(err)
		}
	}
	said := log.String() // it goes on
	if n := strings.Count(said, "calls go over a new connection"); n < 2 || strings.Count(said, `because="the server's SVID ends soon"`) != n {
		t.Errorf("moved %d times: %s", n, said)
	}
	open := func(want int) {
		t.Helper()
		eventually(t, func() error {
			if n := sallyport.Generations(c); n != want {
				return fmt.Errorf("%d generations of connections", n)
			}
			return nil
		})
	}
	open(2)
	cancel()
	open(1)
}

// lines is a log.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(what string) int {
	return strings.Count(l.String(), what)
}

// The identity of the server ends and it has no newer one: the client speaks to
// it no longer, over an open connection either.
func TestServerExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ttl)
	servers := apart(t, w, time.Hour)
	c := w.as(t, "clinic", sallyport.Config{Retry: sallyport.Retry{Attempts: 1}})
	call := func() error {
		_, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)})
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	if err := servers.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := call(); err == nil {
			return errors.New("the server is still spoken to")
		} else if !errors.Is(identity.HandshakeCause(err), identity.ErrServerRefused) {
			return err
		}
		return nil
	})
}

// A bundle leaves the client, and with it the only one that verifies the server:
// the client speaks to it no longer, over an open connection either.
func TestServerLosesTrust(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.start(t)
	c := w.as(t, "outsider", sallyport.Config{})
	call := func() error {
		_, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)})
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	if err := w.authority.Update("outsider", func(w *devauthority.Workload) { w.FederatesWith = nil }); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, func() error {
		if err := call(); err == nil {
			return errors.New("the server is still spoken to")
		} else if !errors.Is(identity.HandshakeCause(err), identity.ErrServerRefused) {
			return err
		}
		return nil
	})
	if took := time.Since(began); took > 10*time.Second { // a second, on a machine that is not busy
		t.Errorf("it took %v", took)
	}
}
