package svidfiles

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Source gives what is written. It is what *identity.Source has.
type Source interface {
	// GetX509Context returns the newest SVID and bundles, as they came together. An
	// error ends Keep.
	GetX509Context() (*x509svid.SVID, *x509bundle.Set, error)
	// Updated returns a channel that is closed at the next update.
	Updated() <-chan struct{}
	// Away is since when nothing came, and why; the zero time if all is well.
	Away() (since time.Time, err error)
}

// Config says what Keep does beside writing.
type Config struct {
	// Replaced is called after each replacement, the first included; nil for
	// nothing. Its error is logged. It must end soon after ctx does.
	Replaced func(ctx context.Context) error
	// Log gets replacements and troubles; nothing is logged if it is nil.
	Log *slog.Logger
}

const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	// leastReminder is how often at the most it is said that an SVID is about to
	// expire.
	leastReminder = 10 * time.Second
)

// Keep writes what the source has and each update of it to dir, until ctx is
// done, which is no error, or the source is closed. What cannot be written is
// logged and tried again; meanwhile the files stay as they were. When a quarter
// of the time that an SVID had when it came is left and no new one has come, and
// again and again until it has, the log says so as an error.
func Keep(ctx context.Context, dir *Dir, src Source, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for {
		updated := src.Updated()
		svid, bundles, err := src.GetX509Context()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		replace(ctx, dir, svid, bundles, updated, cfg)
		if !await(ctx, updated, svid, src, cfg.Log) {
			return nil
		}
	}
}

// Once writes what the source has and calls cfg.Replaced, whose error it returns.
func Once(ctx context.Context, dir *Dir, src Source, cfg Config) error {
	svid, bundles, err := src.GetX509Context()
	if err != nil {
		return err
	}
	if err := dir.Write(svid, bundles); err != nil {
		return err
	}
	if cfg.Replaced == nil {
		return nil
	}
	return cfg.Replaced(ctx)
}

// replace writes until it has succeeded, ctx is done or there is something newer
// to write.
func replace(ctx context.Context, dir *Dir, svid *x509svid.SVID, bundles *x509bundle.Set, updated <-chan struct{}, cfg Config) {
	expires := svid.Certificates[0].NotAfter
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := dir.Write(svid, bundles)
		if err == nil {
			break
		}
		attrs := []slog.Attr{slog.Duration("in", wait), slog.Any("error", err), slog.Time("new_expires", expires)}
		if inPlace := dir.expires(); !inPlace.IsZero() {
			attrs = append(attrs, slog.Time("files_expire", inPlace))
		}
		cfg.Log.LogAttrs(ctx, slog.LevelError, "SVID not written, trying again", attrs...)
		select {
		case <-time.After(wait):
		case <-updated:
			return
		case <-ctx.Done():
			return
		}
	}
	cfg.Log.LogAttrs(ctx, slog.LevelInfo, "SVID written", slog.String("id", svid.ID.String()),
		slog.String("serial", svid.Certificates[0].SerialNumber.Text(16)), slog.Time("expires", expires), slog.Int("bundles", bundles.Len()))
	if cfg.Replaced == nil {
		return
	}
	if err := cfg.Replaced(ctx); err != nil && !errors.Is(err, context.Canceled) {
		cfg.Log.LogAttrs(ctx, slog.LevelError, "SVID written, but what should follow did not succeed", slog.Any("error", err))
	}
}

// await waits for the next update and complains when it is late. It returns false
// when ctx is done.
func await(ctx context.Context, updated <-chan struct{}, svid *x509svid.SVID, src Source, log *slog.Logger) bool {
	leaf := svid.Certificates[0]
	late := time.NewTimer(time.Until(leaf.NotAfter) / 4 * 3)
	defer late.Stop()
	for {
		select {
		case <-updated:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		case <-late.C:
		}
		left := time.Until(leaf.NotAfter)
		attrs := []slog.Attr{slog.String("id", svid.ID.String()), slog.Time("expires", leaf.NotAfter)}
		if since, err := src.Away(); err != nil {
			attrs = append(attrs, slog.Time("workload_api_away_since", since), slog.Any("error", err))
		}
		if left > 0 {
			log.LogAttrs(ctx, slog.LevelError, "SVID is about to expire and no new one has come",
				append(attrs, slog.Duration("left", left.Truncate(time.Second)))...)
			late.Reset(min(max(left/2, leastReminder), left))
		} else {
			log.LogAttrs(ctx, slog.LevelError, "SVID has expired and no new one has come: the files are of no use", attrs...)
			late.Reset(time.Minute)
		}
	}
}
