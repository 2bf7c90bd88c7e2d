package sallyport

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"github.com/sallyport/sallyport/identity"
)

// generation is the connections that are made with one SVID.
type generation struct {
	conn    *grpc.ClientConn
	svid    *x509svid.SVID
	names   *names
	servers *servers
	// retired is closed when a newer generation takes new calls.
	retired chan struct{}
	// uses are the calls that are open now, and one more while it is current. At 0
	// it is closed, and stays at 0.
	uses   atomic.Int64
	expiry *time.Timer // nil until retired; guarded by connections.mu
}

// pinned is a source whose SVID stays the same and whose bundles do not.
type pinned struct {
	identity.X509Source
	svid *x509svid.SVID
}

func (p pinned) GetX509SVID() (*x509svid.SVID, error) { return p.svid, nil }

// generation makes one with the newest SVID.
func (c *connections) generation() (*generation, error) {
	svid, err := c.source.GetX509SVID()
	if err != nil {
		return nil, err
	}
	creds, err := identity.NewClientCredentials(pinned{c.source, svid}, c.cfg.ServerID)
	if err != nil {
		return nil, err
	}
	g := &generation{
		svid: svid, names: &names{servers: c.cfg.Servers, resolver: c.cfg.lookup, log: c.log},
		servers: newServers(c.source, c.log), retired: make(chan struct{}),
	}
	g.uses.Store(1)
	opts := []grpc.DialOption{
		grpc.WithResolvers(g.names),
		grpc.WithDefaultServiceConfig(c.cfg.Balance.serviceConfig()),
		grpc.WithDisableServiceConfig(), // of others
		grpc.WithTransportCredentials(&serverCredentials{creds, g.servers}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(c.cfg.MaxAnswerBytes)),
		// A server that restarts is back soon.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: warmTimeout,
		}),
		// So that calls on a connection that leads nowhere end.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	if c.cfg.Token != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(userToken(c.cfg.Token)))
	}
	if g.conn, err = grpc.NewClient(g.names.target(), opts...); err != nil {
		return nil, fmt.Errorf("servers %q: %w", c.cfg.Servers, err)
	}
	return g, nil
}

// take counts a call; it is false if the generation is retired and closed.
func (g *generation) take() bool {
	for n := g.uses.Load(); n > 0; n = g.uses.Load() {
		if g.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// warm blocks until a server has accepted the generation, and until those at the
// given addresses have too, or have refused it, or let it wait longer than settle:
// calls should not all go to the first.
func (g *generation) warm(ctx context.Context, addresses []string, settle time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	g.conn.Connect()
	for state := g.conn.GetState(); state != connectivity.Ready; state = g.conn.GetState() {
		if state == connectivity.TransientFailure || state == connectivity.Shutdown {
			if err := g.servers.lastError(); err != nil {
				return fmt.Errorf("new connection: %w", err)
			}
			return errors.New("new connection: no server could be reached, or it hung up")
		}
		if !g.conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("new connection: not made within %v", warmTimeout)
		}
	}
	settled := time.NewTimer(settle)
	defer settled.Stop()
	for !g.servers.triedAll(addresses) {
		select {
		case <-g.servers.changed:
		case <-settled.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// movingStream is a stream that knows when its connection is no longer the newest.
type movingStream struct {
	grpc.ClientStream
	generation *generation
}
