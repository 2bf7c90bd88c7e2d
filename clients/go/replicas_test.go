package sallyport_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// atOnceOnly has a back-off beyond the deadline of a fleet's calls and streams: what
// would have to wait fails at once.
var atOnceOnly = sallyport.Retry{Backoff: time.Hour, MaxBackoff: time.Hour}

// warmTimeout is how long a client would wait for an address that leads nowhere.
const warmTimeout = 10 * time.Second

// Round robin: each of three servers gets a third, of calls and of streams.
func TestRoundRobin(t *testing.T) {
	f := newFleet(t, 3, time.Hour)
	c := f.as(t, sallyport.Config{})
	awaitServers(t, c, 3)
	by := spread(t, c, 300, 4)
	for _, a := range f.addresses {
		if by[a] < 95 || by[a] > 105 {
			t.Errorf("calls by server: %v", by)
			break
		}
	}
	clear(by)
	for range 9 {
		var p peer.Peer
		stream, err := inferencev1.NewPredictionServiceClient(c).PredictStream(t.Context(), grpc.Peer(&p))
		if err != nil {
			t.Fatal(err)
		}
		open := &inferencev1.PredictStreamRequest_Open{Open: &inferencev1.StreamOpen{Model: breastCancer}}
		if err := stream.Send(&inferencev1.PredictStreamRequest{Message: open}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		p0, _ := peer.FromContext(stream.Context())
		by[p0.Addr.String()]++
	}
	for _, a := range f.addresses {
		if by[a] != 3 {
			t.Errorf("streams by server: %v", by)
			break
		}
	}
}

// Least request: a server that is slow gets few calls; with round robin it gets a
// third of them, and its callers wait.
func TestLeastRequest(t *testing.T) {
	f := newFleet(t, 3, time.Hour)
	f.drain(t, 0)
	f.start(t, 0, &listener{slow: 250 * time.Millisecond}) // slow on a busy machine too
	for balance, most := range map[sallyport.Balance]int{sallyport.LeastRequest: 60, sallyport.RoundRobin: 90} {
		c := f.as(t, sallyport.Config{Balance: balance})
		awaitServers(t, c, 3)
		by := spread(t, c, 240, 12)
		t.Logf("%v: %v", balance, by)
		if n := by[f.addresses[0]]; n > most || balance == sallyport.RoundRobin && n < 70 {
			t.Errorf("%v: %d of 240 calls to the slow server", balance, n)
		}
	}
}

// A replica is killed or stopped under load, and comes back: no call and no batch
// is lost, nothing waits for a back-off, and it is used again.
func TestReplicaLost(t *testing.T) {
	for name, lose := range map[string]func(*fleet, int){
		"killed":  func(f *fleet, i int) { f.replicas[i].kill(t) },
		"drained": func(f *fleet, i int) { f.drain(t, i) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 3, time.Hour)
			c := f.as(t, sallyport.Config{Retry: atOnceOnly})
			awaitServers(t, c, 3)
			l := startLoad(t, c, 8, atOnceOnly)
			for i := range f.replicas { // wherever the streams are
				l.more(50)
				lose(f, i)
				l.more(50)
				if by := spread(t, c, 20, 1); by[f.addresses[i]] > 0 || len(by) != 2 {
					t.Errorf("after %s was lost: %v", f.addresses[i], by)
				}
				f.start(t, i, &listener{})
				awaitServers(t, c, 3)
			}
			l.end()
		})
	}
}

// Whatever replicas do, in whatever order, as long as one is there: no call is
// lost, and each batch has its one result.
func TestRandomLosses(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f := newFleet(t, 3, time.Hour)
	c := f.as(t, sallyport.Config{Balance: sallyport.Balance(random.IntN(2))})
	awaitServers(t, c, 3)
	l := startLoad(t, c, 4, sallyport.Retry{})
	up := []int{0, 1, 2}
	var down []int
	for range 20 {
		l.more(random.Int64N(50))
		i := random.IntN(3)
		at := slices.Index(up, i)
		switch {
		case at < 0:
			f.start(t, i, &listener{})
			up, down = append(up, i), slices.DeleteFunc(down, func(j int) bool { return j == i })
		case len(up) == 1:
			continue
		case random.IntN(2) == 0:
			f.replicas[i].kill(t)
			up, down = slices.Delete(up, at, at+1), append(down, i)
		default:
			f.drain(t, i)
			up, down = slices.Delete(up, at, at+1), append(down, i)
		}
		// So that the client is not without the others when the next one goes.
		awaitServers(t, c, len(up))
	}
	for _, i := range down {
		f.start(t, i, &listener{})
	}
	awaitServers(t, c, 3)
	l.end()
}

// A replica that is not who it should be is never used, and said so once; the
// others do its work. While they are away, calls wait for them and not for it.
func TestReplicaOfWrongIdentity(t *testing.T) {
	f := newFleet(t, 3, time.Hour)
	f.drain(t, 0)
	impostor := f.serve(t, &listener{Listener: listen(t, f.addresses[0])}, "clinic")
	var log lines
	c := f.as(t, sallyport.Config{
		Retry: sallyport.Retry{Attempts: 100, MaxBackoff: 200 * time.Millisecond},
		Log:   slog.New(slog.NewTextHandler(&log, nil)),
	})
	awaitServers(t, c, 2)
	if by := spread(t, c, 60, 2); by[f.addresses[0]] > 0 {
		t.Errorf("calls by server: %v", by)
	}
	eventually(t, func() error {
		if n := impostor.listener.accepted(); n < 3 {
			return fmt.Errorf("it was tried %d times", n)
		}
		return nil
	})
	said := `msg="a server is not used for its identity" address=` + f.addresses[0]
	if log.count(said) != 1 || log.count("a server is not used") != 1 {
		t.Error(log.String())
	}
	for i := 1; i < 3; i++ {
		f.replicas[i].kill(t)
	}
	called := make(chan error, 1)
	go func() {
		server, err := call(t, c)
		if err == nil && server != f.addresses[1] {
			err = errors.New("answered by " + server)
		}
		called <- err
	}()
	hasty := f.as(t, sallyport.Config{})
	if _, err := call(t, hasty); status.Code(err) != codes.Unavailable {
		t.Errorf("without a server: %v", err)
	}
	f.start(t, 1, &listener{})
	if err := <-called; err != nil {
		t.Error(err)
	}
}

// Calls move to new connections only when those to a slow replica are made too, so
// that they do not all go to the others.
func TestMoveAwaitsReplicas(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, 12*time.Second)
	f.drain(t, 0)
	f.start(t, 0, &listener{slow: 100 * time.Millisecond})
	var log lines
	c := f.as(t, sallyport.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	awaitServers(t, c, 3)
	// A move waits for no longer than a second or two, in which a busy machine may
	// not make a connection: one move in four has to do.
	n := 0
	for moves := 0; moves < 4 && n < 3; moves++ {
		eventually(t, func() error {
			if log.count("calls go over a new connection") <= moves {
				return fmt.Errorf("calls have moved %d times", moves)
			}
			return nil
		})
		n = sallyport.Connected(c)
		t.Logf("calls have moved to %d servers", n)
	}
	if n != 3 {
		t.Error("no move has waited for all of them")
	}
}

// SVIDs rotate while one replica is down and another address leads nowhere: no
// call fails, though none is made twice, and none waits for either.
func TestRotationWithReplicaDown(t *testing.T) {
	t.Parallel()
	const ttl = 8 * time.Second // leaves a busy machine time to move
	f := newFleet(t, 3, ttl)
	silent := listen(t, "127.0.0.1:0") // accepts and says nothing
	defer func() { _ = silent.Close() }()
	f.addresses = append(f.addresses, silent.Addr().String())
	c := f.as(t, sallyport.Config{Retry: sallyport.Retry{Attempts: 1}})
	awaitServers(t, c, 3)
	f.drain(t, 2)
	awaitServers(t, c, 2)
	l := startLoad(t, c, 1, sallyport.Retry{})
	var longest time.Duration
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		began := time.Now()
		if _, err := call(t, c); err != nil {
			t.Errorf("call: %v", err)
		}
		longest = max(longest, time.Since(began))
	}
	l.end()
	if longest > warmTimeout {
		t.Errorf("a call took %v", longest)
	}
	t.Logf("longest call: %v", longest)
	for _, s := range l.streams {
		if n := len(s.CallIDs()); n < 3 {
			t.Errorf("a stream did not move: %d RPCs", n)
		}
	}
}

// A replica that has another model, or not yet the stream's, does not end the
// stream while another one has it.
func TestReplicaWithAnotherModel(t *testing.T) {
	for name, other := range map[string]func(serverStream) error{
		"another artefact": func(s serverStream) error { return s.Send(opened(7, "sha256:ff")) },
		"no such version":  func(serverStream) error { return refusal(codes.NotFound, "MODEL_NOT_FOUND") },
	} {
		t.Run(name, func(t *testing.T) {
			changed := false // where the stream did not begin
			server := func() *script {
				began := false
				return &script{
					predict: func(int) error { return nil },
					rpc: func(n int, open *inferencev1.StreamOpen, s serverStream) error {
						switch {
						case open.GetVersion() == 0:
							began = true
							return errors.Join(accept(s), echoSome(s, 3), refusal(codes.Unavailable, "DRAINING"))
						case began:
							return errors.Join(accept(s), echo(s))
						}
						changed = true
						return other(s)
					},
				}
			}
			c := scripted(t, sallyport.Config{Retry: atOnceOnly}, server(), server())
			awaitServers(t, c, 2)
			s, err := c.Stream(t.Context(), sallyport.StreamConfig{Model: "m", Ordered: true, Retry: atOnceOnly})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := exchange(s, batches); !errors.Is(err, io.EOF) || len(got) != batches {
				t.Errorf("results of %v: %v", got, err)
			}
			if !changed {
				t.Error("the other server was never asked")
			}
		})
	}
}
