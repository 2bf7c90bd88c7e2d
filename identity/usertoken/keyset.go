package usertoken

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/identity"
)

const (
	// filePoll is how often a file with keys is read. It is not watched: reading
	// costs microseconds, and there are directories that cannot be watched.
	filePoll = 2 * time.Second
	// refetchGap is the least time between two fetches that calls ask for, all
	// together, because tokens name keys that are not known: who can call us must
	// not be able to make us hammer the issuer.
	refetchGap = 5 * time.Second
	// An attempt that failed is repeated after retryFirst, then twice as long each
	// time, up to retryMost or the usual interval.
	retryFirst, retryMost = time.Second, 30 * time.Second
)

// keySet has the keys of one issuer. One goroutine fetches them, at intervals and
// when a key is asked for that is not known, so that there is never more than
// one fetch under way. Unlike go-oidc's, it forgets a key that the issuer
// withdraws, and everything if the issuer cannot be reached for long.
type keySet struct {
	issuer   string
	algs     []jose.SignatureAlgorithm
	fetch    fetch
	interval time.Duration
	maxAge   time.Duration
	now      func() time.Time
	log      *slog.Logger

	cancel context.CancelFunc
	ended  chan struct{} // closed when the goroutine has ended
	state  atomic.Pointer[state]
	wanted chan struct{} // has one element if a call wants a fetch

	expiry *time.Timer // runs out when the keys may be too old

	logging sync.Mutex // guards what follows, and the order of the log
	tooOld  bool       // the log says that the keys are too old

	mu       sync.Mutex    // guards what follows
	running  bool          // an attempt is under way
	attempt  chan struct{} // closed at the end of the running or next attempt
	wantedAt time.Time     // when a call got a fetch last
}

// state is what is known of the keys; only the goroutine replaces it.
type state struct {
	set    *jwks // nil if there never were keys
	digest [sha256.Size]byte
	had    time.Time // when set was last what the issuer has
	err    error     // of the last attempt
}

func newKeySet(cfg OIDC, now func() time.Time, log *slog.Logger) *keySet {
	k := &keySet{
		issuer:   cfg.Issuer,
		fetch:    fetchWeb(cfg),
		interval: cfg.RefreshInterval,
		maxAge:   cfg.MaxKeyAge,
		now:      now,
		log:      log.With(slog.String("issuer", cfg.Issuer)),
		ended:    make(chan struct{}),
		wanted:   make(chan struct{}, 1),
		running:  true,
		attempt:  make(chan struct{}),
	}
	for _, alg := range cfg.Algorithms {
		k.algs = append(k.algs, jose.SignatureAlgorithm(alg))
	}
	if cfg.JWKSFile != "" {
		k.fetch = fetchFile(cfg.JWKSFile)
		k.interval = min(k.interval, filePoll)
	}
	k.expiry = time.NewTimer(k.maxAge)
	k.state.Store(&state{})
	return k
}

// start begins the first attempt; whoever needs a key waits for it.
func (k *keySet) start(ctx context.Context) {
	ctx, k.cancel = context.WithCancel(ctx)
	go k.run(ctx)
}

// stop ends the goroutine and waits for it. No key is found any more.
func (k *keySet) stop() {
	k.cancel()
	<-k.ended
}

func (k *keySet) run(ctx context.Context) {
	defer close(k.ended)
	defer k.state.Store(&state{err: errClosed})
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { k.watch(ctx) })
	retry := retryFirst
	for {
		wait := k.interval
		if k.update(ctx) {
			retry = retryFirst
		} else {
			wait = min(retry, k.interval)
			retry = min(2*retry, retryMost)
		}
		k.mu.Lock()
		k.running = false
		close(k.attempt)
		k.attempt = make(chan struct{})
		k.mu.Unlock()

		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.wanted:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		k.mu.Lock()
		k.running = true
		select {
		case <-k.wanted: // this attempt is what it asked for
		default:
		}
		k.mu.Unlock()
	}
}

// update makes one attempt to get the keys and tells whether it got them.
func (k *keySet) update(ctx context.Context) bool {
	began := k.now()
	last := k.state.Load()
	fetchCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	doc, from, err := k.fetch(fetchCtx)
	next := &state{set: last.set, digest: sha256.Sum256(doc), had: began}
	if err == nil && (last.set == nil || next.digest != last.digest) {
		if next.set, err = parseJWKS(doc, k.algs); err != nil {
			err = fmt.Errorf("%s: %w", from, err)
		}
	}
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		next = &state{set: last.set, digest: last.digest, had: last.had, err: brief(err)}
	}
	k.state.Store(next)
	if err == nil {
		k.expiry.Reset(k.remaining(next))
	}
	k.report(ctx, last, next)
	return err == nil
}

// fresh tells whether the state has keys that are not too old.
func (k *keySet) fresh(s *state) bool {
	return s.set != nil && k.now().Sub(s.had) <= k.maxAge
}

// has tells whether the set is what the issuer has, as far as is known.
func (k *keySet) has(set *jwks) bool {
	s := k.state.Load()
	return s.set == set && k.fresh(s)
}

// find returns the key that verifies by the algorithm, and the set that it is of.
// kid may be empty if only one key can be meant. It blocks while an attempt is
// under way without which it cannot answer, until ctx is done at the latest.
func (k *keySet) find(ctx context.Context, alg jose.SignatureAlgorithm, kid string) (*jwks, any, error) {
	s := k.state.Load()
	if s.set == nil {
		if err := k.await(ctx, false); err != nil {
			return nil, nil, err
		}
		s = k.state.Load()
	}
	key, count, err := k.look(s, alg, kid)
	if err == nil && count == 0 && kid != "" {
		// It may be newer than our keys.
		if err := k.await(ctx, true); err != nil {
			return nil, nil, err
		}
		s = k.state.Load()
		key, count, err = k.look(s, alg, kid)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case count == 1:
		return s.set, key, nil
	case count > 1:
		return nil, nil, invalid("issuer %s has several keys for %s with kid %s", clip(k.issuer), alg, clip(kid))
	case s.err != nil:
		return nil, nil, k.unavailable(s.err)
	default:
		return nil, nil, invalid("issuer %s has no key for %s with kid %s", clip(k.issuer), alg, clip(kid))
	}
}

// look finds the key in keys that may be used, and how many there are.
func (k *keySet) look(s *state, alg jose.SignatureAlgorithm, kid string) (key any, count int, err error) {
	switch {
	case k.fresh(s):
		key, count = s.set.find(alg, kid)
		return key, count, nil
	case s.err != nil:
		return nil, 0, k.unavailable(s.err)
	default:
		return nil, 0, k.unavailable(errTooOld)
	}
}

// await waits for the end of the attempt that is under way. If there is none it
// returns at once, unless the call may have one of its own.
func (k *keySet) await(ctx context.Context, want bool) error {
	k.mu.Lock()
	attempt := k.attempt
	if !k.running {
		now := k.now()
		if !want || now.Sub(k.wantedAt) < refetchGap {
			k.mu.Unlock()
			return nil
		}
		k.wantedAt = now
		k.running = true
		k.wanted <- struct{}{} // has room: it is empty when none is running
	}
	k.mu.Unlock()
	select {
	case <-attempt:
	case <-k.ended:
	case <-ctx.Done():
		return k.unavailable(context.Cause(ctx))
	}
	return nil
}

func (k *keySet) unavailable(err error) error {
	return wrap(identity.ErrKeysUnavailable, "keys of issuer %s: %w", clip(k.issuer), err)
}
