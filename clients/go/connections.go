package sallyport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"github.com/sallyport/sallyport/identity"
)

const (
	// warmTimeout is how long a new connection may take before calls move to it.
	warmTimeout = 10 * time.Second
	// afterEnd is how long connections outlive their SVID. It is the server that
	// ends their calls, with a reason; this is for one that does not.
	afterEnd = 2 * time.Second
	// minMove and maxMove bound the wait between two attempts to move.
	minMove, maxMove = 250 * time.Millisecond, 10 * time.Second
)

// connections are the generations of connections of a client: one for each SVID
// that it had, of which the newest takes new calls. A generation that is
// retired is closed when its last call has ended.
type connections struct {
	source *identity.Source
	cfg    Config
	log    *slog.Logger

	cancel    context.CancelFunc
	following sync.WaitGroup

	mu      sync.Mutex // guards what follows
	current *generation
	all     map[*generation]struct{} // not closed
	closed  bool
}

// generation is the connections that are made with one SVID.
type generation struct {
	conn    *grpc.ClientConn
	svid    *x509svid.SVID
	servers *servers
	// retired is closed when a newer generation takes new calls.
	retired chan struct{}
	calls   int         // open now; guarded by connections.mu
	expiry  *time.Timer // nil until retired
}

// pinned is a source whose SVID stays the same and whose bundles do not.
type pinned struct {
	identity.X509Source
	svid *x509svid.SVID
}

func (p pinned) GetX509SVID() (*x509svid.SVID, error) { return p.svid, nil }

// connect makes no connection yet. It follows the source until close.
func connect(ctx context.Context, source *identity.Source, cfg Config) (*connections, error) {
	c := &connections{source: source, cfg: cfg, log: cfg.Log, all: make(map[*generation]struct{})}
	// Before the SVID is read, so that no update is missed.
	updated := source.Updated()
	first, err := c.generation()
	if err != nil {
		return nil, err
	}
	c.current, c.all[first] = first, struct{}{}
	ctx, c.cancel = context.WithCancel(ctx)
	c.following.Go(func() { c.follow(ctx, updated) })
	return c, nil
}

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
	g := &generation{svid: svid, servers: newServers(c.source), retired: make(chan struct{})}
	opts := []grpc.DialOption{
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
	if g.conn, err = grpc.NewClient("passthrough:///"+c.cfg.Server, opts...); err != nil {
		return nil, fmt.Errorf("server %q: %w", c.cfg.Server, err)
	}
	return g, nil
}

// take is the generation for a new call, which is counted until it ends: opts
// then tell it.
func (c *connections) take(opts []grpc.CallOption) (*generation, []grpc.CallOption, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errClosed
	}
	g := c.current
	g.calls++
	// gRPC does not promise to tell it only once.
	ended := sync.OnceFunc(func() { c.ended(g) })
	return g, append(opts[:len(opts):len(opts)], grpc.OnFinish(func(error) { ended() })), nil
}

// ended tells that a call of the generation has ended.
func (c *connections) ended(g *generation) {
	c.mu.Lock()
	g.calls--
	unused := g.calls == 0 && g != c.current
	c.mu.Unlock()
	if unused {
		c.finish(g)
	}
}

// follow moves calls to new connections: with each newer SVID, and when that of
// a server nears its end.
func (c *connections) follow(ctx context.Context, updated <-chan struct{}) {
	failed := 0
	because := ""          // why a move is due, until it is made
	var wait time.Duration // until the next attempt after one that failed
	for {
		g := c.current // only this goroutine changes it
		timer := time.NewTimer(time.Until(g.servers.moveAt()))
		if failed > 0 {
			timer.Reset(wait)
		}
		changed := g.servers.changed
		if failed > 0 {
			changed = nil
		}
		select {
		case <-updated:
			updated = c.source.Updated()
			for _, g := range c.generations() {
				g.servers.recheck()
			}
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		if svid, err := c.source.GetX509SVID(); err == nil && svid != g.svid && !svid.Certificates[0].Equal(g.svid.Certificates[0]) {
			because = "we have a newer SVID"
		} else if because == "" && !time.Now().Before(g.servers.moveAt()) {
			because = "the server's SVID ends soon"
		}
		if because == "" {
			continue
		}
		err := c.move(ctx, because)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failed, because = 0, ""
			continue
		}
		wait = min(minMove<<min(failed, 8), maxMove)
		failed++
		c.log.LogAttrs(ctx, slog.LevelWarn, "no new connection, the old one goes on",
			slog.String("because", because), slog.Any("error", err), slog.Time("identity_expires", g.svid.Certificates[0].NotAfter))
	}
}

// move lets new calls go over a new generation. If the current one works, the new
// one must work too; the error is that it does not, and nothing has changed.
// because is for the log.
func (c *connections) move(ctx context.Context, because string) error {
	next, err := c.generation()
	if err != nil {
		return err
	}
	if c.current.conn.GetState() == connectivity.Ready {
		if err := next.warm(ctx); err != nil {
			return errors.Join(err, next.conn.Close())
		}
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return next.conn.Close()
	}
	old := c.current
	c.current, c.all[next] = next, struct{}{}
	unused := old.calls == 0
	// Calls that nobody ends must not keep it for ever.
	old.expiry = time.AfterFunc(time.Until(old.svid.Certificates[0].NotAfter)+afterEnd, func() { c.finish(old) })
	close(old.retired)
	c.mu.Unlock()
	if unused {
		c.finish(old)
	}
	c.log.LogAttrs(ctx, slog.LevelInfo, "calls go over a new connection",
		slog.String("because", because),
		slog.String("id", next.svid.ID.String()),
		slog.String("serial", next.svid.Certificates[0].SerialNumber.Text(16)),
		slog.Time("expires", next.svid.Certificates[0].NotAfter))
	return nil
}

// warm blocks until the generation has a connection that a server has accepted.
func (g *generation) warm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	g.conn.Connect()
	for {
		state := g.conn.GetState()
		switch state { //nolint:exhaustive // the others lead here
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			if err := g.servers.lastError(); err != nil {
				return fmt.Errorf("new connection: %w", err)
			}
			return errors.New("new connection: the server could not be reached, or hung up")
		}
		if !g.conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("new connection: not made within %v", warmTimeout)
		}
	}
}

// finish closes a generation that is retired, once.
func (c *connections) finish(g *generation) {
	c.mu.Lock()
	_, open := c.all[g]
	delete(c.all, g)
	if g.expiry != nil {
		g.expiry.Stop()
	}
	c.mu.Unlock()
	if open {
		_ = g.conn.Close() // its only error is that it is closed
	}
}

func (c *connections) generations() []*generation {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*generation, 0, len(c.all))
	for g := range c.all {
		all = append(all, g)
	}
	return all
}

// close ends all calls and waits for the goroutine.
func (c *connections) close() {
	c.cancel()
	c.following.Wait()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	for _, g := range c.generations() {
		c.finish(g)
	}
}

// movingStream is a stream that knows when its connection is no longer the newest.
type movingStream struct {
	grpc.ClientStream
	retired <-chan struct{}
}
