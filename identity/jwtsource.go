package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var _ jwtbundle.Source = (*Source)(nil)

var errNoJWTBundles = errors.New("source was opened without JWT bundles")

// maxJWTAway is how long JWT bundles are used that may be out of date because the
// Workload API is away. An X.509-SVID bounds that by itself, a bundle does not.
const maxJWTAway = time.Hour

// GetJWTBundleForTrustDomain returns the newest JWT bundle of a trust domain. It
// is an error if the Workload API gives none or has been away for an hour, the
// source was opened without Config.JWTBundles or is closed.
func (s *Source) GetJWTBundleForTrustDomain(td spiffeid.TrustDomain) (*jwtbundle.Bundle, error) {
	away := s.jwt.now.Load()
	switch bundles := s.jwt.current.Load(); {
	case away != nil && time.Since(away.since) > maxJWTAway:
		return nil, fmt.Errorf("JWT bundles are too old: the Workload API has been away since %s", away.since.UTC().Format(time.RFC3339))
	case s.watcher.current.Load() == nil:
		return nil, errClosed
	case bundles == nil:
		return nil, errNoJWTBundles
	default:
		return bundles.GetJWTBundleForTrustDomain(td)
	}
}

// FetchJWTSVID asks the Workload API for a JWT-SVID of the source's own ID, for
// one audience or more. It blocks until there is an answer or ctx is done; a
// Workload API that is away is an error. What it returns is a secret for as long
// as it holds, and good at each of the audiences.
func (s *Source) FetchJWTSVID(ctx context.Context, audience ...string) (*jwtsvid.SVID, error) {
	if len(audience) == 0 {
		return nil, errors.New("JWT-SVID: no audience")
	}
	own, err := s.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("JWT-SVID: %w", err)
	}
	svid, err := s.client.FetchJWTSVID(ctx, jwtsvid.Params{Subject: own.ID, Audience: audience[0], ExtraAudiences: audience[1:]})
	if err != nil {
		return nil, fmt.Errorf("JWT-SVID: %w", err)
	}
	if svid.ID != own.ID {
		return nil, fmt.Errorf("JWT-SVID: it is of %s, not of %s", svid.ID, own.ID)
	}
	return svid, nil
}

// jwtWatcher is the receiving end of the watch of JWT bundles, run by its one
// goroutine.
type jwtWatcher struct {
	absence
	started func() // closes wait
	wait    chan struct{}
	current atomic.Pointer[jwtbundle.Set]
}

func newJWTWatcher(log *slog.Logger) *jwtWatcher {
	w := &jwtWatcher{absence: absence{log: log, what: "JWT bundles"}, wait: make(chan struct{})}
	w.started = sync.OnceFunc(func() { close(w.wait) })
	return w
}

// OnJWTBundlesUpdate puts the update in the place of the one before.
func (w *jwtWatcher) OnJWTBundlesUpdate(bundles *jwtbundle.Set) {
	w.current.Store(bundles)
	w.ended() // before anybody learns of the update and asks Away
	w.started()
	w.log.LogAttrs(context.Background(), slog.LevelInfo, "JWT bundles received", slog.Int("bundles", bundles.Len()))
}

// OnJWTBundlesWatchError keeps and says the trouble; the watch goes on.
func (w *jwtWatcher) OnJWTBundlesWatchError(err error) {
	if status.Code(err) != codes.Canceled {
		w.failed(err, time.Time{})
	}
}
