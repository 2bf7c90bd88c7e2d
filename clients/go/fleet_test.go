package sallyport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// fleet is replicas of a server.
type fleet struct {
	*world
	addresses []string
	replicas  []*running
}

// newFleet starts n replicas with SVIDs that hold for ttl.
func newFleet(t testing.TB, n int, ttl time.Duration) *fleet {
	t.Helper()
	f := &fleet{world: newWorld(t, ttl), replicas: make([]*running, n)}
	f.streams = 100
	for i := range n {
		f.addresses = append(f.addresses, "127.0.0.1:0")
		f.start(t, i, &listener{})
	}
	return f
}

// start starts a replica that is down, at the address that it had.
func (f *fleet) start(t testing.TB, i int, l *listener) {
	t.Helper()
	l.Listener = listen(t, f.addresses[i])
	f.addresses[i] = l.Addr().String()
	f.replicas[i] = f.serve(t, l, "server")
}

// drain stops a replica as an operator does.
func (f *fleet) drain(t testing.TB, i int) {
	t.Helper()
	if err := f.replicas[i].close(); err != nil {
		t.Error(err)
	}
}

func (f *fleet) as(t testing.TB, cfg sallyport.Config) *sallyport.Client {
	t.Helper()
	cfg.Servers = f.addresses
	return f.world.as(t, "clinic", cfg)
}

// call is a call, and the address of the server that answered it.
func call(t testing.TB, c *sallyport.Client) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var p peer.Peer
	_, err := c.Predict(ctx, &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(1)}, grpc.Peer(&p))
	if err != nil {
		return "", err
	}
	return p.Addr.String(), nil
}

// spread makes n calls, some at a time, and counts them by server.
func spread(t testing.TB, c *sallyport.Client, n, atOnce int) map[string]int {
	t.Helper()
	var mu sync.Mutex // guards by
	by := map[string]int{}
	var calling sync.WaitGroup
	for range atOnce {
		calling.Go(func() {
			for range n / atOnce {
				server, err := call(t, c)
				if err != nil {
					t.Errorf("call: %v", err)
				}
				mu.Lock()
				by[server]++
				mu.Unlock()
			}
		})
	}
	calling.Wait()
	return by
}

// awaitServers waits until every one of so many servers answers calls.
func awaitServers(t testing.TB, c *sallyport.Client, n int) {
	t.Helper()
	eventually(t, func() error {
		if by := spread(t, c, 4*n, 1); len(by) != n {
			return fmt.Errorf("calls go to %v", by)
		}
		return nil
	})
}

// load is a client at work: callers who do not rest, an ordered and an unordered
// stream.
type load struct {
	t       testing.TB
	calls   atomic.Int64
	results atomic.Int64
	streams []*sallyport.Stream
	stop    chan struct{}
	working sync.WaitGroup
}

// startLoad starts it; retry is that of the streams.
func startLoad(t testing.TB, c *sallyport.Client, callers int, retry sallyport.Retry) *load {
	t.Helper()
	l := &load{t: t, stop: make(chan struct{})}
	for range callers {
		l.working.Go(func() { l.call(c) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	for _, ordered := range []bool{false, true} {
		s, err := c.Stream(ctx, sallyport.StreamConfig{Model: breastCancer, Ordered: ordered, Retry: retry})
		if err != nil {
			t.Fatal(err)
		}
		l.streams = append(l.streams, s)
		sent := make(chan uint64, 1)
		l.working.Go(func() {
			n, err := feed(s, 0, l.stop, 2*time.Millisecond)
			if err != nil {
				t.Errorf("send: %v", err)
			}
			sent <- n
		})
		l.working.Go(func() {
			got, err := collect(s, ordered)
			l.results.Add(int64(len(got)))
			if n := <-sent; !errors.Is(err, io.EOF) || uint64(len(got)) != n {
				t.Errorf("ordered %v: %d results of %d batches: %v", ordered, len(got), n, err)
			}
		})
	}
	return l
}

func (l *load) call(c *sallyport.Client) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		if _, err := call(l.t, c); err != nil {
			l.t.Errorf("call: %v", err)
			return
		}
		l.calls.Add(1)
	}
}

// more waits until so many more calls were answered.
func (l *load) more(n int64) {
	l.t.Helper()
	begin := l.calls.Load()
	eventually(l.t, func() error {
		if done := l.calls.Load() - begin; done < n {
			return fmt.Errorf("%d calls of %d", done, n)
		}
		return nil
	})
}

// end stops the load, and fails the test if anything was lost or doubled.
func (l *load) end() {
	l.t.Helper()
	close(l.stop)
	l.working.Wait()
	rpcs := 0
	for _, s := range l.streams {
		rpcs += len(s.CallIDs())
	}
	l.t.Logf("%d calls, %d results over %d RPCs", l.calls.Load(), l.results.Load(), rpcs)
}
