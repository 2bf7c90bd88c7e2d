package sallyport

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/resolver"
)

const (
	// lookupEach is how often names are looked up, so that servers that were added
	// are found. gRPC's own resolver looks only when a connection fails.
	lookupEach = 30 * time.Second
	// lookupPause is the least time between two lookups, however much fails.
	lookupPause = time.Second
	// lookupTimeout bounds one lookup.
	lookupTimeout = 10 * time.Second
)

// names is gRPC's resolver for the servers of a client: several HOST:PORT, each
// of which may stand for several addresses. Every address is a server of its own.
type names struct {
	servers  []string
	resolver *net.Resolver
	log      *slog.Logger
	// addresses is how many there are.
	addresses atomic.Int32
}

var _ resolver.Builder = (*names)(nil)

// target is what a connection is made to. The first server stands for all where
// gRPC asks the environment for a proxy.
func (n *names) target() string { return n.Scheme() + ":///" + url.PathEscape(n.servers[0]) }

// Scheme is that of target.
func (*names) Scheme() string { return "sallyport" }

// Build gives the addresses at once that need no lookup.
func (n *names) Build(_ resolver.Target, conn resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lookups{names: n, conn: conn, cancel: cancel, known: make(map[string][]resolver.Endpoint)}
	var unknown []string
	for _, server := range n.servers {
		if isName(server) {
			unknown = append(unknown, server)
		} else {
			l.known[server] = []resolver.Endpoint{endpoint(server, server)}
		}
	}
	if len(l.known) > 0 {
		l.update()
	}
	for _, server := range unknown {
		failed := make(chan struct{}, 1)
		l.failed = append(l.failed, failed)
		l.working.Go(func() { l.follow(ctx, server, failed) })
	}
	return l, nil
}

// isName tells whether HOST:PORT has to be looked up.
func isName(server string) bool {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err != nil
}

// endpoint is one address of a server, which is told by which name it was called.
func endpoint(address, server string) resolver.Endpoint {
	return resolver.Endpoint{Addresses: []resolver.Address{{Addr: address, ServerName: server}}}
}

// lookups keep the addresses of one connection's servers up to date.
type lookups struct {
	*names
	conn    resolver.ClientConn
	cancel  context.CancelFunc
	working sync.WaitGroup
	failed  []chan struct{} // each gets a value when a connection has failed

	mu    sync.Mutex // guards known, and the order of updates
	known map[string][]resolver.Endpoint
}

// ResolveNow asks for lookups.
func (l *lookups) ResolveNow(resolver.ResolveNowOptions) {
	for _, failed := range l.failed {
		select {
		case failed <- struct{}{}:
		default: // asked already
		}
	}
}

// Close waits for the goroutines.
func (l *lookups) Close() {
	l.cancel()
	l.working.Wait()
}

// follow looks up one server, over and over.
func (l *lookups) follow(ctx context.Context, server string, failed <-chan struct{}) {
	for {
		found, err := l.lookup(ctx, server)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.log.LogAttrs(ctx, slog.LevelWarn, "name of a server not found", slog.String("server", server), slog.Any("error", err))
		}
		l.mu.Lock()
		switch {
		case err == nil:
			l.known[server] = found
			l.update()
		case l.known[server] == nil:
			// The error of a call then tells what is wrong with the name.
			l.known[server] = []resolver.Endpoint{endpoint(server, server)}
			l.update()
		default: // it keeps those that it had
		}
		l.mu.Unlock()
		select {
		case <-time.After(lookupPause):
		case <-ctx.Done():
			return
		}
		select {
		case <-failed:
		case <-time.After(lookupEach):
		case <-ctx.Done():
			return
		}
	}
}

func (n *names) lookup(ctx context.Context, server string) ([]resolver.Endpoint, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addresses, err := n.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	found := make([]resolver.Endpoint, len(addresses))
	for i, a := range addresses {
		found[i] = endpoint(net.JoinHostPort(a.Unmap().String(), port), server)
	}
	return found, nil
}

// update tells gRPC what is known.
func (l *lookups) update() {
	var state resolver.State
	for _, server := range l.servers {
		state.Endpoints = append(state.Endpoints, l.known[server]...)
	}
	l.addresses.Store(int32(len(state.Endpoints))) //nolint:gosec // they are few
	// Its error is that the balancer can do nothing with them, and calls get that.
	_ = l.conn.UpdateState(state)
}
