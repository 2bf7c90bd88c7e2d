package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
)

// door is server credentials on a listener, without gRPC.
type door struct {
	addr  string
	creds *identity.ServerCredentials

	mu       sync.Mutex // guards what follows
	sessions map[spiffeid.ID]*identity.Session
	refusals []identity.Refusal
}

func openDoor(t *testing.T, src identity.X509Source, admit func(*identity.Caller, net.Addr) error) *door {
	t.Helper()
	return openBoundedDoor(t, src, admit, 0)
}

// openBoundedDoor lets each caller have so many connections; 0 is no bound.
func openBoundedDoor(t *testing.T, src identity.X509Source, admit func(*identity.Caller, net.Addr) error, maxPerCaller int) *door {
	t.Helper()
	d := &door{sessions: make(map[spiffeid.ID]*identity.Session)}
	var err error
	d.creds, err = identity.NewServerCredentials(src, identity.ServerConfig{
		TrustDomains: []spiffeid.TrustDomain{home, federated},
		Admit:        admit,
		MaxPerCaller: maxPerCaller,
		Refused: func(r identity.Refusal) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.refusals = append(d.refusals, r)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				// gRPC makes a clone of the credentials.
				conn, info, err := d.creds.Clone().ServerHandshake(raw)
				if err != nil {
					return
				}
				session := info.(*identity.AuthInfo).Session
				d.mu.Lock()
				d.sessions[session.Caller().ID] = session
				d.mu.Unlock()
				_, _ = conn.Write([]byte{0})
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
				_ = conn.Close() // the second changes nothing
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return d
}

func (d *door) session(id spiffeid.ID) *identity.Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions[id]
}

// connect returns a connection that the server has taken.
func connect(t *testing.T, addr string, cfg *tls.Config) *tls.Conn {
	t.Helper()
	raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, cfg)
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// prompt is within a second, with room for a busy machine: nothing else would end
// what is waited for.
const prompt = 10 * time.Second

// closed waits for the other side to hang up and returns how long that took.
func closed(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	_ = conn.SetReadDeadline(start.Add(2 * prompt))
	_, err := conn.Read(make([]byte, 1))
	if timeout := net.Error(nil); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("not closed: %v", err)
	}
	return time.Since(start)
}

// alive fails unless the connection stays open for a while.
func alive(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
	_, err := conn.Read(make([]byte, 1))
	if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("connection did not stay open: %v", err)
	}
}

// What would no longer be let in ends within a second, and nothing else does.
func TestRecheck(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	successor := identitytest.NewCA(t, "sallyport.test")
	friends := identitytest.NewCA(t, "federated.test")
	partner := spiffeid.RequireFromString("spiffe://federated.test/partner")
	for _, tt := range []struct {
		name   string
		change func(src *identitytest.Source, block *atomic.Value)
		ends   []spiffeid.ID
		why    string
	}{
		{name: "nothing", change: func(*identitytest.Source, *atomic.Value) {}},
		{
			name: "bundle of the federated domain leaves",
			change: func(src *identitytest.Source, _ *atomic.Value) {
				src.SetBundles(ca.Bundle())
			},
			ends: []spiffeid.ID{partner}, why: "no X.509 bundle",
		},
		{
			name: "bundle of the federated domain is replaced",
			change: func(src *identitytest.Source, _ *atomic.Value) {
				src.SetBundles(ca.Bundle(), identitytest.NewCA(t, "federated.test").Bundle())
			},
			ends: []spiffeid.ID{partner}, why: "unknown authority",
		},
		{
			name: "own CA is rotated, the old one stays for now",
			change: func(src *identitytest.Source, _ *atomic.Value) {
				both := ca.Bundle()
				for _, cert := range successor.Bundle().X509Authorities() {
					both.AddX509Authority(cert)
				}
				src.SetBundles(both, friends.Bundle())
			},
		},
		{
			name: "own CA is rotated and the old one gone",
			change: func(src *identitytest.Source, _ *atomic.Value) {
				src.SetBundles(successor.Bundle(), friends.Bundle())
			},
			ends: []spiffeid.ID{clinic}, why: "unknown authority",
		},
		{
			name:   "caller is blocked",
			change: func(_ *identitytest.Source, block *atomic.Value) { block.Store(clinic) },
			ends:   []spiffeid.ID{clinic}, why: errBlocked.Error(),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle(), friends.Bundle())
			var block atomic.Value
			d := openDoor(t, src, func(c *identity.Caller, _ net.Addr) error {
				if block.Load() == c.ID {
					return errBlocked
				}
				return nil
			})
			conns := map[spiffeid.ID]*tls.Conn{
				clinic:  connect(t, d.addr, tlsConfig(ca.SVID(t, "/clinic/triage"))),
				partner: connect(t, d.addr, tlsConfig(friends.SVID(t, "/partner"))),
			}
			if n := d.creds.Connections(); n != 2 {
				t.Fatalf("%d connections", n)
			}
			tt.change(src, &block)
			ended := d.creds.Recheck()
			if len(ended) != len(tt.ends) {
				t.Fatalf("%d sessions ended, want %d", len(ended), len(tt.ends))
			}
			for i, s := range ended {
				if s.Caller().ID != tt.ends[i] || !errors.Is(s.Err(), identity.ErrRevoked) || !strings.Contains(s.Err().Error(), tt.why) {
					t.Errorf("session of %s ended: %v; want %s: %s", s.Caller().ID, s.Err(), tt.ends[i], tt.why)
				}
			}
			for _, id := range tt.ends {
				if took := closed(t, conns[id]); took > prompt {
					t.Errorf("closed after %v", took)
				}
				delete(conns, id)
			}
			for id, conn := range conns {
				alive(t, conn)
				if err := d.session(id).Err(); err != nil {
					t.Errorf("session of %s: %v", id, err)
				}
				_ = conn.Close()
			}
			// Once each: what has ended does not end again.
			if again := d.creds.Recheck(); len(again) != 0 {
				t.Errorf("%d sessions ended again", len(again))
			}
			for deadline := time.Now().Add(prompt); d.creds.Connections() > 0; {
				if time.Now().After(deadline) {
					t.Fatalf("%d connections are remembered after their end", d.creds.Connections())
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
}

// An idle connection ends with its SVID, also if the peer does not read.
func TestSessionEndsWithItsSVID(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	d := openDoor(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), nil)
	end := time.Now().Add(4 * time.Second).Truncate(time.Second)
	conn := connect(t, d.addr, tlsConfig(ca.SVID(t, "/clinic/triage", identitytest.Valid(end.Add(-time.Minute), end))))
	ended := make(chan time.Time, 1)
	session := d.session(clinic)
	session.AfterEnd(func() { ended <- time.Now() })
	if err := session.Err(); err != nil {
		t.Fatal(err)
	}
	select {
	case at := <-ended:
		if late := at.Sub(end); late < 0 || late > prompt {
			t.Errorf("session ended %v after the SVID", late)
		}
	case <-time.After(2 * prompt):
		t.Fatal("the session does not end")
	}
	if !errors.Is(session.Err(), identity.ErrExpired) {
		t.Errorf("session ended: %v", session.Err())
	}
	closed(t, conn)
	if late := time.Since(end); late > prompt {
		t.Errorf("closed %v after the SVID ended", late)
	}
}

// A change between the verification of a certificate and the end of the
// handshake is not missed, whether Recheck comes before or after.
func TestBlockedDuringTheHandshake(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	var d *door
	var asked atomic.Int32
	d = openDoor(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), func(*identity.Caller, net.Addr) error {
		if asked.Add(1) > 1 {
			return errBlocked // from now on
		}
		// Recheck runs while the handshake that is admitted here goes on.
		d.creds.Recheck()
		return nil
	})
	if _, err := knock(t, d.addr, tlsConfig(ca.SVID(t, "/clinic/triage"))); err == nil {
		t.Fatal("let in")
	}
	for deadline := time.Now().Add(2 * time.Second); ; {
		d.mu.Lock()
		refusals := d.refusals
		d.mu.Unlock()
		if len(refusals) == 1 && errors.Is(refusals[0].Err, errBlocked) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("refusals %v", refusals)
		}
		time.Sleep(time.Millisecond)
	}
	if n := d.creds.Connections(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// A connection that is closed for any reason is no expiry and no revocation.
func TestSessionOfClosedConnection(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	d := openDoor(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), nil)
	conn := connect(t, d.addr, tlsConfig(ca.SVID(t, "/clinic/triage")))
	session := d.session(clinic)
	_ = conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	session.AfterEnd(cancel)
	<-ctx.Done()
	if err := session.Err(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("session of a closed connection: %v", err)
	}
}

// Two rechecks at once, of a reload and of an update, end a session once.
func TestConcurrentRechecks(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	for range 20 {
		var block atomic.Bool
		d := openDoor(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), func(*identity.Caller, net.Addr) error {
			if block.Load() {
				return errBlocked
			}
			return nil
		})
		connect(t, d.addr, tlsConfig(ca.SVID(t, "/clinic/triage")))
		block.Store(true)
		var ended atomic.Int32
		var rechecks sync.WaitGroup
		for range 4 {
			rechecks.Go(func() { ended.Add(int32(len(d.creds.Recheck()))) })
		}
		rechecks.Wait()
		if ended.Load() != 1 {
			t.Fatalf("ended %d times", ended.Load())
		}
	}
}

// If only a chain is left that ends sooner, so does the session.
func TestSessionEndsWithTheShorterChain(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	src := identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle())
	d := openDoor(t, src, nil)
	end := time.Now().Add(4 * time.Second).Truncate(time.Second)
	// The intermediate is an authority for now: then its own end does not count.
	svid := ca.SVID(t, "/clinic/triage", identitytest.Intermediate(identitytest.Valid(end.Add(-time.Hour), end)))
	src.SetBundles(x509bundle.FromX509Authorities(home, svid.Certificates[1:]))
	conn := connect(t, d.addr, tlsConfig(svid))
	session := d.session(clinic)
	src.SetBundles(ca.Bundle())
	if ended := d.creds.Recheck(); len(ended) != 0 {
		t.Fatalf("ended: %v", ended[0].Err())
	}
	closed(t, conn)
	if late := time.Since(end); !errors.Is(session.Err(), identity.ErrExpired) || late < 0 || late > prompt {
		t.Errorf("ended %v after the chain: %v", late, session.Err())
	}
}
