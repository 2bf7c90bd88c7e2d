package sallyport_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	sallyport "github.com/sallyport/sallyport/clients/go"
)

// zone is a DNS server that knows one name.
type zone struct {
	name string
	conn net.PacketConn

	mu        sync.Mutex // guards what follows
	addresses [][4]byte
	unknown   int // answers that there is no such name
}

func serveZone(t *testing.T, name string) *zone {
	t.Helper()
	conn, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{name: name + ".", conn: conn}
	var serving sync.WaitGroup
	serving.Go(func() {
		question := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			if answer, err := z.answer(question[:n]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		serving.Wait()
	})
	return z
}

// set gives the name addresses 127.0.0.X.
func (z *zone) set(last ...byte) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addresses, z.unknown = nil, 0
	for _, x := range last {
		z.addresses = append(z.addresses, [4]byte{127, 0, 0, x})
	}
}

func (z *zone) answer(question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	z.mu.Lock()
	defer z.mu.Unlock()
	q := m.Questions[0]
	if q.Name.String() != z.name || len(z.addresses) == 0 {
		m.RCode = dnsmessage.RCodeNameError
		z.unknown++
	} else if q.Type == dnsmessage.TypeA {
		for _, a := range z.addresses {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: a},
			})
		}
	}
	return m.Pack()
}

func (z *zone) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", z.conn.LocalAddr().String())
	}}
}

// A name stands for all of its addresses. One that replaces a lost one is found
// without waiting, and a name that is not found any more keeps those it had.
func TestNames(t *testing.T) {
	w := newWorld(t, time.Hour)
	z := serveZone(t, "replicas.sallyport.test")
	first := w.start(t)
	_, port, _ := net.SplitHostPort(w.address)
	at := func(host string) string { return net.JoinHostPort(host, port) }
	if !strings.HasPrefix(w.address, "127.0.0.1:") {
		t.Fatal(w.address)
	}
	second := w.serve(t, &listener{Listener: listen(t, at("127.0.0.2"))}, "server")
	w.serve(t, &listener{Listener: listen(t, at("127.0.0.3"))}, "server")

	cfg := sallyport.LookUp(sallyport.Config{Servers: []string{at("replicas.sallyport.test")}}, z.resolver())
	c := w.as(t, "clinic", cfg)
	if _, err := call(t, c); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("of a name without addresses: %v", err)
	}
	used := func(want ...string) {
		t.Helper()
		eventually(t, func() error {
			got := slices.Sorted(maps.Keys(spread(t, c, 12, 1)))
			if !slices.Equal(got, want) {
				return errors.New("calls go to " + strings.Join(got, ", "))
			}
			return nil
		})
	}
	z.set(1, 2)
	eventually(t, func() error {
		_, err := call(t, c)
		return err
	})
	used(at("127.0.0.1"), at("127.0.0.2"))
	z.set(2, 3)
	first.kill(t)
	used(at("127.0.0.2"), at("127.0.0.3"))
	z.set()
	second.kill(t)
	eventually(t, func() error {
		z.mu.Lock()
		defer z.mu.Unlock()
		if z.unknown == 0 {
			return errors.New("the name is not looked up")
		}
		return nil
	})
	used(at("127.0.0.3"))
	w.serve(t, &listener{Listener: listen(t, at("127.0.0.2"))}, "server")
	used(at("127.0.0.2"), at("127.0.0.3"))
}
