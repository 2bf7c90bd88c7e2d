package redistest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy is the network between a replica and a server.
type Proxy struct {
	// Address is where the replica connects to.
	Address string

	lis    net.Listener
	target string
	busy   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	cut   bool
	lose  bool
	conns map[net.Conn]struct{}
}

// NewProxy forwards to target until the test ends.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	lis, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{Address: lis.Addr().String(), lis: lis, target: target, conns: make(map[net.Conn]struct{})}
	p.busy.Go(p.accept)
	tb.Cleanup(func() {
		_ = lis.Close()
		p.Cut()
		p.busy.Wait()
	})
	return p
}

// Cut ends all connections, whatever is under way on them, and lets none through
// until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// Mend lets connections through again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// LoseNextReply ends the connection on which the server answers next, in place of
// its answer: what was asked is done, and who asked does not know.
func (p *Proxy) LoseNextReply() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = true
}

// loses tells whether this answer is the one to lose.
func (p *Proxy) loses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	lose := p.lose
	p.lose = false
	return lose
}

// replies is the way back of one connection.
type replies struct {
	proxy *Proxy
	near  net.Conn
}

func (r replies) Write(b []byte) (int, error) {
	if r.proxy.loses() {
		return 0, net.ErrClosed
	}
	return r.near.Write(b)
}

// keep tells whether the connection may be; it is closed if not.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) accept() {
	for {
		near, err := p.lis.Accept()
		if err != nil {
			return
		}
		if !p.keep(near) {
			continue
		}
		p.busy.Go(func() {
			defer p.drop(near)
			far, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.target)
			if err != nil || !p.keep(far) {
				return
			}
			defer p.drop(far)
			back := make(chan struct{})
			go func() {
				defer close(back)
				_, _ = io.Copy(replies{p, near}, far)
				_ = near.Close()
			}()
			_, _ = io.Copy(far, near)
			_ = far.Close()
			<-back
		})
	}
}
