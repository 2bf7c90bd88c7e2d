package identity

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// absence is known to one watch of the Workload API: whether it gives anything
// now. Its writer is the goroutine of the watch.
type absence struct {
	log  *slog.Logger
	what string // that does not come
	now  atomic.Pointer[trouble]
}

// trouble is an absence that lasts.
type trouble struct {
	since   time.Time
	err     error // the last
	expired bool  // the SVID, and that was said
}

// failed notes an error of the watch and says so: once for each kind of error,
// and once when the SVID that is there has expired. Expires is when it does;
// zero if there is none, or it does not matter.
func (a *absence) failed(err error, expires time.Time) {
	now := time.Now()
	next, level, msg := &trouble{since: now, err: err}, slog.LevelWarn, "SPIFFE Workload API does not answer, trying again"
	if old := a.now.Load(); old != nil {
		next.since, next.expired = old.since, old.expired
		if status.Code(old.err) == status.Code(err) {
			level = slog.LevelDebug
		}
	}
	attrs := []slog.Attr{slog.String("what", a.what), slog.Time("since", next.since), slog.Any("error", err)}
	if !expires.IsZero() {
		msg = "SPIFFE Workload API is away, going on with what is there"
		if !now.Before(expires) {
			msg = "SPIFFE Workload API is away, and the SVID has expired"
			if !next.expired {
				level, next.expired = slog.LevelError, true
			}
		}
		attrs = append(attrs, slog.Time("identity_expires", expires), slog.Duration("identity_left", expires.Sub(now).Truncate(time.Second)))
	}
	a.now.Store(next)
	a.log.LogAttrs(context.Background(), level, msg, attrs...)
}

// ended notes an update: the absence is over, if there was one.
func (a *absence) ended() {
	if old := a.now.Swap(nil); old != nil {
		a.log.LogAttrs(context.Background(), slog.LevelInfo, "SPIFFE Workload API is back",
			slog.String("what", a.what), slog.Duration("away", time.Since(old.since).Truncate(time.Millisecond)))
	}
}

func (a *absence) err() error {
	if now := a.now.Load(); now != nil {
		return now.err
	}
	return nil
}

// keepWatching runs a watch until ctx ends. The watch retries by itself, but
// gives up for good when the answer is Canceled or InvalidArgument, as an agent
// that is shutting down may give. Failed is told of it.
func keepWatching(ctx context.Context, watch func(context.Context) error, failed func(error)) {
	for {
		err := watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if status.Code(err) == codes.Canceled { // the watch did not tell it
			failed(err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}

// Away tells since when the Workload API has given nothing, and its last error:
// it does not answer, or issues no identity any more. The zero time and nil
// while it does. The source goes on with what it has, for as long as NotAfter
// says. Of the X.509-SVID and the JWT bundles that of the SVID goes first.
func (s *Source) Away() (since time.Time, err error) {
	for _, a := range []*absence{&s.watcher.absence, &s.jwt.absence} {
		if now := a.now.Load(); now != nil {
			return now.since, now.err
		}
	}
	return time.Time{}, nil
}
