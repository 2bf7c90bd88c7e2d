package identity_test

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
)

// refused waits for so many refusals and returns them.
func (d *door) refused(t *testing.T, n int) []identity.Refusal {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		refusals := d.refusals
		d.mu.Unlock()
		if len(refusals) >= n || time.Now().After(deadline) {
			if len(refusals) != n {
				t.Fatalf("%d refusals, want %d: %v", len(refusals), n, refusals)
			}
			return refusals
		}
	}
}

// left waits until so many connections are left.
func (d *door) left(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); d.creds.Connections() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, want %d", d.creds.Connections(), n)
		}
	}
}

// A caller has its bound of connections, whatever SVID it shows; others have
// theirs; one that ends makes room for one.
func TestConnectionsPerCaller(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	d := openBoundedDoor(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), nil, 2)
	svid := func(path string) *tls.Config { return tlsConfig(ca.SVID(t, path)) }

	first := connect(t, d.addr, svid("/clinic/triage"))
	connect(t, d.addr, svid("/clinic/triage"))
	for i := range 3 {
		if _, err := knock(t, d.addr, svid("/clinic/triage")); err == nil {
			t.Fatal("let in beyond the bound")
		}
		r := d.refused(t, i+1)[i]
		if !errors.Is(r.Err, identity.ErrTooManyConnections) || r.Claimed != clinic || !strings.Contains(r.Err.Error(), clinic.String()+" has 2 open") {
			t.Errorf("refused %s: %v", r.Claimed, r.Err)
		}
	}
	connect(t, d.addr, svid("/clinic/lab"))
	connect(t, d.addr, svid("/clinic/lab"))

	_ = first.Close()
	d.left(t, 3)
	last := connect(t, d.addr, svid("/clinic/triage"))
	if _, err := knock(t, d.addr, svid("/clinic/triage")); err == nil {
		t.Error("one that ended made room for two")
	}
	_ = last.Close()
	d.left(t, 3)
	connect(t, d.addr, svid("/clinic/triage"))
}

// Of handshakes that end at one time no more than the bound come through, and
// none fewer.
func TestConnectionsPerCallerAtOnce(t *testing.T) {
	const bound, tries = 5, 40
	ca := identitytest.NewCA(t, "sallyport.test")
	// All wait here for each other, then go on to the end of their handshakes.
	var asked atomic.Int32
	together := make(chan struct{})
	d := openBoundedDoor(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), func(*identity.Caller, net.Addr) error {
		switch n := asked.Add(1); {
		case n == tries:
			close(together)
		case n < tries:
			<-together
		}
		return nil
	}, bound)
	svid := ca.SVID(t, "/clinic/triage")
	var in atomic.Int32
	var all sync.WaitGroup
	hold := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(hold) })
	defer letGo()
	for range tries {
		all.Go(func() {
			raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", d.addr)
			if err != nil {
				t.Error(err)
				return
			}
			conn := tls.Client(raw, tlsConfig(svid))
			defer func() { _ = conn.Close() }()
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				in.Add(1)
				<-hold
			}
		})
	}
	for _, r := range d.refused(t, tries-bound) {
		if !errors.Is(r.Err, identity.ErrTooManyConnections) {
			t.Error(r.Err)
		}
	}
	d.left(t, bound)
	letGo()
	all.Wait()
	if in.Load() != bound {
		t.Errorf("%d came in, want %d", in.Load(), bound)
	}
	d.left(t, 0)
}

func TestServerCredentialsRefuseANegativeBound(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	_, err := identity.NewServerCredentials(identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), identity.ServerConfig{
		TrustDomains: []spiffeid.TrustDomain{home}, Refused: func(identity.Refusal) {}, MaxPerCaller: -1,
	})
	if err == nil {
		t.Error("accepted")
	}
}
