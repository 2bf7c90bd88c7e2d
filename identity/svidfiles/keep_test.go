package svidfiles_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/svidfiles"
)

var _ svidfiles.Source = (*identity.Source)(nil)

// source is one whose updates and end the test decides.
type source struct {
	mu      sync.Mutex // guards what follows
	now     set
	updated chan struct{}
	err     error
	away    error
}

func newSource(s set) *source { return &source{now: s, updated: make(chan struct{})} }

func (s *source) GetX509Context() (*x509svid.SVID, *x509bundle.Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.svid, s.now.bundles, s.err
}

func (s *source) Updated() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updated
}

func (s *source) Away() (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now(), s.away
}

func (s *source) change(f func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
	close(s.updated)
	s.updated = make(chan struct{})
}

// kept is a Keep that runs in a bubble of synctest.
type kept struct {
	src    *source
	dir    string
	mu     sync.Mutex // guards log
	log    bytes.Buffer
	hooks  atomic.Int32 // calls of Replaced
	fails  atomic.Bool  // whether Replaced fails
	result chan error
	stop   context.CancelFunc
}

func keep(t *testing.T, dir string, s set) *kept {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	k := &kept{src: newSource(s), dir: dir, result: make(chan error, 1), stop: cancel}
	d := open(t, dir)
	go func() {
		k.result <- svidfiles.Keep(ctx, d, k.src, svidfiles.Config{
			Log: slog.New(slog.NewTextHandler(k, nil)),
			Replaced: func(context.Context) error {
				k.hooks.Add(1)
				if k.fails.Load() {
					return errors.New("reload did not work")
				}
				return nil
			},
		})
	}()
	synctest.Wait()
	return k
}

func (k *kept) is(t *testing.T, s set) {
	t.Helper()
	if svid, err := read(k.dir); err != nil || !svid.Certificates[0].Equal(s.svid.Certificates[0]) {
		t.Errorf("not what was sent: %v", err)
	}
}

// Write is the end of the log.
func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.log.Write(p)
}

func (k *kept) said(text string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Count(k.log.String(), text)
}

func (k *kept) ends(t *testing.T, want error) {
	t.Helper()
	k.stop()
	if err := <-k.result; !errors.Is(err, want) {
		t.Errorf("it ended with %v", err)
	}
}

func TestKeepFollows(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all := sets(t, 3)
		k := keep(t, dir, all[0])
		k.is(t, all[0])
		for i, s := range all[1:] {
			k.fails.Store(true) // which ends nothing
			k.src.change(func(src *source) { src.now = s })
			synctest.Wait()
			k.is(t, s)
			if n := k.hooks.Load(); int(n) != i+2 || k.said("reload did not work") != i+1 {
				t.Errorf("%d calls, said %d times", n, k.said("reload did not work"))
			}
		}
		k.ends(t, nil)
	})
}

func TestKeepEndsWithItsSource(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := sets(t, 1)[0]
		k := keep(t, dir, s)
		closed := errors.New("closed")
		k.src.change(func(src *source) { src.err = closed })
		synctest.Wait()
		select {
		case err := <-k.result:
			if !errors.Is(err, closed) {
				t.Errorf("it ended with %v", err)
			}
		default:
			t.Error("it goes on")
		}
		k.stop()
		k.is(t, s)
	})
}

func TestKeepTriesAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all := sets(t, 2)
		k := keep(t, dir, all[0])
		// A directory where a link should be replaced by rename cannot be.
		current := filepath.Join(dir, ".current.new")
		if err := os.MkdirAll(filepath.Join(current, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		k.src.change(func(src *source) { src.now = all[1] })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		k.is(t, all[0])
		if n := k.said("SVID not written, trying again"); n != 4 || k.hooks.Load() != 1 { // after 0, 1, 3 and 7 s
			t.Errorf("said %d times, %d calls", n, k.hooks.Load())
		}
		if err := os.RemoveAll(current); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		k.is(t, all[1])
		if n := k.hooks.Load(); n != 2 {
			t.Errorf("%d calls", n)
		}
		k.ends(t, nil)
	})
}

// TestKeepSaysHowLongFilesAreGood: of what cannot be written the log says until
// when it would be good, and until when the files that stay are.
func TestKeepSaysHowLongFilesAreGood(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.NewCA(t, "sallyport.test")
		issue := func(valid time.Duration) set {
			return set{ca.SVID(t, "/clinic", identitytest.Valid(time.Now(), time.Now().Add(valid))), x509bundle.NewSet(ca.Bundle())}
		}
		expires := func(s set) string { return s.svid.Certificates[0].NotAfter.Format("2006-01-02T15:04:05.000Z07:00") }
		key := filepath.Join(dir, "key.pem")
		before, after := issue(time.Hour), issue(2*time.Hour)
		k := keep(t, dir, before)
		if err := errors.Join(os.Remove(key), os.WriteFile(key, []byte("precious"), 0o600)); err != nil {
			t.Fatal(err)
		}
		k.src.change(func(src *source) { src.now = after })
		synctest.Wait()
		if k.said("new_expires="+expires(after)+" files_expire="+expires(before)) != 1 || k.hooks.Load() != 1 {
			t.Errorf("%d calls, and it says %s", k.hooks.Load(), k.log.String())
		}
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		k.is(t, after)
		if n := k.hooks.Load(); n != 2 {
			t.Errorf("%d calls", n)
		}
		k.ends(t, nil)
	})
}

func TestKeepComplainsLoudly(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.NewCA(t, "sallyport.test")
		issue := func() set {
			now := time.Now()
			return set{ca.SVID(t, "/clinic", identitytest.Valid(now, now.Add(time.Hour))), x509bundle.NewSet(ca.Bundle())}
		}
		k := keep(t, dir, issue())
		k.src.change(func(src *source) { src.away = errors.New("agent is away") })
		const soon, expired = "about to expire", "has expired"
		for _, tt := range []struct {
			at            time.Duration
			soon, expired int
		}{
			{44 * time.Minute, 0, 0},
			{46 * time.Minute, 1, 0},
			{53 * time.Minute, 2, 0},
			{59*time.Minute + 59*time.Second, 9, 0}, // 15 min halved until 10 s
			{60*time.Minute + time.Second, 9, 1},
			{62*time.Minute + time.Second, 9, 3},
		} {
			time.Sleep(time.Until(k.src.now.svid.Certificates[0].NotBefore.Add(tt.at)))
			synctest.Wait()
			if k.said(soon) < min(tt.soon, 2) || k.said(soon) > tt.soon+1 || k.said(expired) != tt.expired {
				t.Errorf("after %v: %d and %d times", tt.at, k.said(soon), k.said(expired))
			}
		}
		if k.said("level=ERROR") != k.said(soon)+k.said(expired) || k.said("agent is away") != k.said("level=ERROR") {
			t.Error("not each complaint is an error that says why")
		}
		before := k.said("level=ERROR")
		k.src.change(func(src *source) { src.now = issue() })
		time.Sleep(40 * time.Minute)
		synctest.Wait()
		if k.said("level=ERROR") != before {
			t.Error("it complains although a new SVID has come")
		}
		k.ends(t, nil)
	})
}

func TestOnce(t *testing.T) {
	dir := t.TempDir()
	s := sets(t, 1)[0]
	refused := errors.New("refused")
	err := svidfiles.Once(t.Context(), open(t, dir), newSource(s), svidfiles.Config{Replaced: func(context.Context) error { return refused }})
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	if svid, err := read(dir); err != nil || svid.ID != s.svid.ID {
		t.Errorf("not written: %v", err)
	}
}
