package usertoken

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// IssuerState is what an operator wants to know of one OIDC issuer: whether its
// tokens are accepted, and what is in the way.
type IssuerState struct {
	Issuer string
	// KeysFrom is when the keys in use were fetched, or found to be the same, last;
	// zero if never, and after Close.
	KeysFrom time.Time
	// Usable tells whether tokens are accepted: there are keys, not too old.
	Usable bool
	// Err is the trouble there is now: of the last attempt to fetch the keys, or of
	// the keys; nil if there is none, or the first attempt is not over. Keys may be
	// usable all the same, until they are too old.
	Err error
}

var (
	errTooOld = errors.New("they are too old")
	errNoKeys = errors.New("no key among them that can verify a token")
)

// Issuers is the state of each OIDC issuer, sorted by issuer; those of JWT-SVIDs
// are not among them. It does not block and is safe for concurrent use.
func (v *Verifier) Issuers() []IssuerState {
	states := make([]IssuerState, 0, len(v.issuers))
	for _, name := range slices.Sorted(maps.Keys(v.issuers)) {
		states = append(states, v.issuers[name].keys.issuerState())
	}
	return states
}

func (k *keySet) issuerState() IssuerState {
	s, fresh := k.current()
	is := IssuerState{Issuer: k.issuer, KeysFrom: s.had, Err: s.err}
	is.Usable = fresh && len(s.set.keys) > 0
	switch {
	case s.err != nil || s.set == nil || is.Usable:
	case fresh:
		is.Err = errNoKeys
	default:
		is.Err = errTooOld
	}
	return is
}

// current is the state, and whether it is fresh.
func (k *keySet) current() (*state, bool) {
	s := k.state.Load()
	return s, k.fresh(s)
}

// remaining is how long to wait until keys are too old. It is never nothing, lest
// a clock that stands still has us wait no time again and again.
func (k *keySet) remaining(s *state) time.Duration {
	return max(k.maxAge-k.now().Sub(s.had)+1, time.Millisecond)
}

// watch logs that the keys are too old at the moment when they are, be it between
// two attempts or while one hangs.
func (k *keySet) watch(ctx context.Context) {
	defer k.expiry.Stop()
	for {
		select {
		case <-k.expiry.C:
		case <-ctx.Done():
			return
		}
		k.logging.Lock()
		s, fresh := k.current()
		if fresh {
			k.expiry.Reset(k.remaining(s)) // they are newer, or the clock is slower than the timer
		} else {
			k.reportAge(ctx, s)
		}
		k.logging.Unlock()
	}
}

// report logs what has changed between two attempts.
func (k *keySet) report(ctx context.Context, last, next *state) {
	k.logging.Lock()
	defer k.logging.Unlock()
	if next.err == nil {
		fresh := k.fresh(next) // unless the attempt took too long
		if next.set != last.set || last.err != nil || k.tooOld && fresh {
			level := slog.LevelInfo
			if len(next.set.keys) == 0 {
				level = slog.LevelWarn
			}
			k.log.LogAttrs(ctx, level, "keys of an issuer of tokens received",
				slog.Any("kids", next.set.ids()), slog.Int("unusable", next.set.unusable))
		}
		k.tooOld = k.tooOld && !fresh
		return
	}
	refused := !k.fresh(next)
	if last.err == nil || last.err.Error() != next.err.Error() {
		k.log.LogAttrs(ctx, slog.LevelWarn, "keys of an issuer of tokens cannot be fetched, trying again",
			slog.Any("error", next.err), slog.Bool("tokens_refused", refused))
	}
	if refused {
		k.reportAge(ctx, next) // the clock is faster than the timer
	}
}

// reportAge logs once that keys, if there were any, are too old. The caller holds
// logging.
func (k *keySet) reportAge(ctx context.Context, s *state) {
	if s.set == nil || k.tooOld {
		return
	}
	k.tooOld = true
	attrs := []slog.Attr{slog.Time("keys_from", s.had), slog.Duration("max_age", k.maxAge)}
	if s.err != nil {
		attrs = append(attrs, slog.Any("error", s.err))
	}
	k.log.LogAttrs(ctx, slog.LevelError, "keys of an issuer of tokens are too old: its tokens are refused", attrs...)
}
