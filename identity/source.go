package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config says where identities come from.
type Config struct {
	// WorkloadAPI is the address of the SPIFFE Workload API: a URI as in
	// SPIFFE_ENDPOINT_SOCKET, or the path of a unix socket. Empty: what
	// SPIFFE_ENDPOINT_SOCKET says.
	WorkloadAPI string
	// StartTimeout is how long Open waits for the first SVID, and the first JWT
	// bundles if they are wanted; 30 s if zero.
	StartTimeout time.Duration
	// JWTBundles asks for the bundles that verify JWT-SVIDs, too.
	JWTBundles bool
	// Log gets updates and troubles; nothing is logged if it is nil.
	Log *slog.Logger
}

// Source holds the newest X.509-SVID and bundles of the SPIFFE Workload API. It
// is safe for concurrent use; no method but Open, Close and FetchJWTSVID blocks.
// While the Workload API is away or issues nothing to this process any more, the
// source goes on with what it has, and says so (Away).
type Source struct {
	client   *workloadapi.Client
	watcher  *watcher
	jwt      *jwtWatcher // without a watch unless JWT bundles are wanted
	cancel   context.CancelFunc
	watching sync.WaitGroup
	close    func() error
}

var _ X509Source = (*Source)(nil)

// Open connects to the Workload API and blocks until it has issued the first
// SVID, and JWT bundles if they are wanted, ctx is done or StartTimeout has
// passed. Its error names the address and what to look at. The caller closes the
// source.
func Open(ctx context.Context, cfg Config) (*Source, error) {
	addr, err := workloadAPIAddress(cfg.WorkloadAPI)
	if err != nil {
		return nil, err
	}
	client, err := workloadapi.New(ctx, append(retrying(), workloadapi.WithAddr(addr))...)
	if err != nil {
		return nil, fmt.Errorf("SPIFFE Workload API at %s: %w", addr, err)
	}
	watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	log := cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	s := &Source{
		client:  client,
		watcher: &watcher{absence: absence{log: log, what: "X.509-SVID"}, started: make(chan struct{})},
		jwt:     newJWTWatcher(log),
		cancel:  cancel,
	}
	s.close = sync.OnceValue(s.shutdown)
	s.watching.Go(func() {
		keepWatching(watchCtx, func(ctx context.Context) error { return client.WatchX509Context(ctx, s.watcher) }, s.watcher.note)
	})
	if cfg.JWTBundles {
		s.watching.Go(func() {
			keepWatching(watchCtx, func(ctx context.Context) error { return client.WatchJWTBundles(ctx, s.jwt) },
				func(err error) { s.jwt.failed(err, time.Time{}) })
		})
	} else {
		s.jwt.started() // nothing to wait for
	}

	timeout := cmp.Or(cfg.StartTimeout, 30*time.Second)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for _, wait := range []struct {
		started chan struct{}
		what    string
		from    *absence
	}{
		{s.watcher.started, "identity", &s.watcher.absence},
		{s.jwt.wait, "JWT bundles", &s.jwt.absence},
	} {
		select {
		case <-wait.started:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-timer.C:
			err = fmt.Errorf("no %s within %v: %s", wait.what, timeout, diagnose(ctx, addr, wait.from.err()))
		}
		return nil, errors.Join(fmt.Errorf("SPIFFE Workload API at %s: %w", addr, err), s.Close())
	}
	return s, nil
}

// Close ends the watch and waits for it. The other methods then return errors,
// and so do handshakes that use the source. Closing again is harmless.
func (s *Source) Close() error { return s.close() }

func (s *Source) shutdown() error {
	s.cancel()
	s.watching.Wait()
	if old := s.watcher.current.Swap(nil); old != nil {
		close(old.replaced)
	}
	return s.client.Close()
}

var errClosed = errors.New("source of SVIDs is closed")

// GetX509SVID returns the newest SVID, which may have expired if the Workload
// API has been away for long.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	now := s.watcher.current.Load()
	if now == nil {
		return nil, errClosed
	}
	return now.svid, nil
}

// GetX509BundleForTrustDomain returns the newest bundle of a trust domain, or
// an error if the Workload API gives none.
func (s *Source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	now := s.watcher.current.Load()
	if now == nil {
		return nil, errClosed
	}
	return now.bundles.GetX509BundleForTrustDomain(td)
}

// GetX509Context returns the newest SVID and all bundles, as they came together.
// They belong to the source: do not change them.
func (s *Source) GetX509Context() (*x509svid.SVID, *x509bundle.Set, error) {
	now := s.watcher.current.Load()
	if now == nil {
		return nil, nil, errClosed
	}
	return now.svid, now.bundles, nil
}

// TrustDomains are those that the source has a bundle of, sorted; none when it
// is closed.
func (s *Source) TrustDomains() []spiffeid.TrustDomain {
	now := s.watcher.current.Load()
	if now == nil {
		return nil
	}
	var tds []spiffeid.TrustDomain
	for _, b := range now.bundles.Bundles() {
		tds = append(tds, b.TrustDomain())
	}
	slices.SortFunc(tds, spiffeid.TrustDomain.Compare)
	return tds
}

// NotAfter is when the newest SVID expires; zero when the source is closed.
func (s *Source) NotAfter() time.Time {
	now := s.watcher.current.Load()
	if now == nil {
		return time.Time{}
	}
	return now.svid.Certificates[0].NotAfter
}

// Updated returns a channel that is closed at the next update of SVID or X.509
// bundles, or when the source is closed. Ask for it before reading what is to be
// watched, so that no update is missed.
func (s *Source) Updated() <-chan struct{} {
	now := s.watcher.current.Load()
	if now == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return now.replaced
}

// snapshot is one update of the Workload API.
type snapshot struct {
	svid     *x509svid.SVID
	bundles  *x509bundle.Set
	replaced chan struct{} // closed when a newer snapshot is there, or none any more
}

// watcher is the receiving end of the watch, run by its one goroutine.
type watcher struct {
	absence
	started chan struct{} // closed with the first snapshot
	current atomic.Pointer[snapshot]
}

// OnX509ContextUpdate puts the update in the place of the one before.
func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	next := &snapshot{svid: update.DefaultSVID(), bundles: update.Bundles, replaced: make(chan struct{})}
	old := w.current.Swap(next)
	w.ended() // before anybody learns of the update and asks Away
	if old != nil {
		close(old.replaced)
	} else {
		close(w.started)
	}
	leaf := next.svid.Certificates[0]
	w.log.LogAttrs(context.Background(), slog.LevelInfo, "identity received",
		slog.String("id", next.svid.ID.String()),
		slog.String("serial", leaf.SerialNumber.Text(16)),
		slog.Time("expires", leaf.NotAfter),
		slog.Int("bundles", next.bundles.Len()))
}

// OnX509ContextWatchError keeps and says the trouble; the watch goes on.
func (w *watcher) OnX509ContextWatchError(err error) {
	if status.Code(err) != codes.Canceled { // Close, or told by keepWatching
		w.note(err)
	}
}

func (w *watcher) note(err error) {
	var expires time.Time
	if now := w.current.Load(); now != nil {
		expires = now.svid.Certificates[0].NotAfter
	}
	w.failed(err, expires)
}
