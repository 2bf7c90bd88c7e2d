package sallyport

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/sallyport/sallyport/identity"
)

const (
	// warmTimeout is how long new connections may take before calls move to them.
	warmTimeout = 10 * time.Second
	// settle is how long the first of them waits for the others.
	settle = 2 * time.Second
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

	// current takes new calls; nil when the client is closed.
	current atomic.Pointer[generation]

	mu  sync.Mutex               // guards all
	all map[*generation]struct{} // not closed
}

// connect makes no connection yet. It follows the source until close.
func connect(ctx context.Context, source *identity.Source, cfg Config) (*connections, error) {
	c := &connections{source: source, cfg: cfg, log: cfg.Log, all: make(map[*generation]struct{})}
	// Before the SVID is read, so that no update is missed.
	updated := source.Updated()
	first, err := c.generation()
	if err != nil {
		return nil, err
	}
	c.all[first] = struct{}{}
	c.current.Store(first)
	ctx, c.cancel = context.WithCancel(ctx)
	c.following.Go(func() { c.follow(ctx, updated) })
	return c, nil
}

// take is the generation for a new call, which the caller releases.
func (c *connections) take() (*generation, error) {
	for {
		g := c.current.Load()
		if g == nil {
			return nil, errClosed
		}
		if g.take() {
			return g, nil
		}
		// It was retired in between, and the next one is there.
	}
}

// release tells that a call of the generation has ended, or that it is no longer
// current.
func (c *connections) release(g *generation) {
	if g.uses.Add(-1) == 0 {
		c.finish(g)
	}
}

// elsewhere tells whether a server is connected beside the one that a call ended on
// with err.
func (c *connections) elsewhere(err error) bool {
	g := c.current.Load()
	if g == nil {
		return false
	}
	n := g.servers.connected()
	if !lost(err) {
		n--
	}
	return n > 0
}

// follow moves calls to new connections: with each newer SVID, and when that of
// a server nears its end.
func (c *connections) follow(ctx context.Context, updated <-chan struct{}) {
	failed := 0
	because := ""          // why a move is due, until it is made
	var wait time.Duration // until the next attempt after one that failed
	for {
		g := c.current.Load() // only this goroutine changes it
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
	old := c.current.Load()
	if old.conn.GetState() == connectivity.Ready {
		addresses, end := old.servers.addresses()
		if ours := old.svid.Certificates[0].NotAfter; ours.Before(end) {
			end = ours
		}
		// Calls must leave before an identity ends.
		if err := next.warm(ctx, addresses, min(settle, time.Until(end)/4)); err != nil {
			return errors.Join(err, next.conn.Close())
		}
	}
	c.mu.Lock()
	c.all[next] = struct{}{}
	c.current.Store(next)
	// Calls that nobody ends must not keep it for ever.
	old.expiry = time.AfterFunc(time.Until(old.svid.Certificates[0].NotAfter)+afterEnd, func() { c.finish(old) })
	c.mu.Unlock()
	close(old.retired)
	c.release(old)
	c.log.LogAttrs(ctx, slog.LevelInfo, "calls go over a new connection",
		slog.String("because", because),
		slog.String("id", next.svid.ID.String()),
		slog.String("serial", next.svid.Certificates[0].SerialNumber.Text(16)),
		slog.Time("expires", next.svid.Certificates[0].NotAfter))
	return nil
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
	c.current.Store(nil)
	for _, g := range c.generations() {
		c.finish(g)
	}
}
