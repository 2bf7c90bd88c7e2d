package usertoken_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
)

// journal is a log that can be read while it is written.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) log() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) count(part string) int { return strings.Count(j.String(), part) }

const (
	lineTooOld   = `level=ERROR msg="keys of an issuer of tokens are too old: its tokens are refused"`
	lineReceived = `level=INFO msg="keys of an issuer of tokens received"`
)

// An operator with several issuers must learn which document is the bad one.
func TestBadKeysSayWhereTheyAre(t *testing.T) {
	garbage := []byte("<html>login</html>")
	huge := append([]byte(`{"keys":[]}`), bytes.Repeat([]byte(" "), 512<<10)...)
	for name, test := range map[string]struct {
		doc  []byte
		want string
	}{
		"no key set": {garbage, "not a JSON Web Key Set"},
		"no keys":    {[]byte("{}"), "no keys in it"},
		"huge":       {huge, "more than 524288 bytes"},
	} {
		serve := func(i *identitytest.Issuer) http.Handler {
			return from(i, good(i), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(test.doc) })
		}
		for kind, where := range map[string]func(*testing.T) (usertoken.OIDC, string){
			"file": func(t *testing.T) (usertoken.OIDC, string) {
				path := filepath.Join(t.TempDir(), "keys.json")
				if err := os.WriteFile(path, test.doc, 0o600); err != nil {
					t.Fatal(err)
				}
				return usertoken.OIDC{Issuer: issuerOfFile, Audiences: []string{audience}, JWKSFile: path}, path
			},
			"URL": func(t *testing.T) (usertoken.OIDC, string) {
				issuer := identitytest.NewIssuer(t)
				issuer.Answer(serve(issuer))
				cfg := oidc(issuer)
				cfg.JWKSURL = issuer.URL() + "/keys"
				return cfg, cfg.JWKSURL
			},
			"discovery": func(t *testing.T) (usertoken.OIDC, string) {
				issuer := identitytest.NewIssuer(t)
				issuer.Answer(serve(issuer))
				return oidc(issuer), issuer.URL() + "/keys"
			},
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				cfg, at := where(t)
				v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{cfg}})
				claims := claimsOfFile()
				claims["iss"] = cfg.Issuer
				token := identitytest.NewTokenKey(t, "1", jose.ES256).Token(t, claims)
				_, err := v.Verify(t.Context(), token)
				if !errors.Is(err, identity.ErrKeysUnavailable) {
					t.Fatal(err)
				}
				for _, err := range []error{err, v.Issuers()[0].Err} {
					if err == nil || !strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), test.want) {
						t.Errorf("error %v, want %q and %q", err, at, test.want)
					}
				}
			})
		}
	}
}

// held holds the state of the only issuer.
func held(t *testing.T, v *usertoken.Verifier, from time.Time, usable bool, trouble string) {
	t.Helper()
	is := v.Issuers()
	if len(is) != 1 || is[0].Issuer != issuerOfFile {
		t.Fatalf("issuers %+v", is)
	}
	if !is[0].KeysFrom.Equal(from) || is[0].Usable != usable {
		t.Errorf("keys from %v, usable %v; want %v, %v", is[0].KeysFrom, is[0].Usable, from, usable)
	}
	switch err := is[0].Err; {
	case trouble == "" && err != nil:
		t.Errorf("trouble %v, want none", err)
	case trouble != "" && (err == nil || !strings.Contains(err.Error(), trouble)):
		t.Errorf("trouble %v, want %q", err, trouble)
	}
}

func TestIssuerStateFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	key := identitytest.NewTokenKey(t, "1", jose.ES256)
	synctest.Test(t, func(t *testing.T) {
		v, err := usertoken.New(t.Context(), usertoken.Config{
			OIDC: []usertoken.OIDC{{Issuer: issuerOfFile, Audiences: []string{audience}, JWKSFile: path, MaxKeyAge: 5 * time.Minute}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close() //nolint:errcheck // always nil
		synctest.Wait()
		held(t, v, time.Time{}, false, "no such file")

		file(t, path, set(key.JWK()))
		time.Sleep(time.Second) // the first retry
		synctest.Wait()
		held(t, v, time.Now(), true, "")
		time.Sleep(2 * time.Second) // the same keys, fetched anew
		synctest.Wait()
		fetched := time.Now()
		held(t, v, fetched, true, "")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		held(t, v, fetched, true, "no such file")
		time.Sleep(time.Nanosecond)
		held(t, v, fetched, false, "no such file")

		file(t, path, set([]any{}...))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if is := v.Issuers()[0]; is.Usable || is.Err == nil || !strings.Contains(is.Err.Error(), "no key") || time.Since(is.KeysFrom) > 2*time.Second {
			t.Errorf("an empty set: %+v", is)
		}
		_ = v.Close()
		held(t, v, time.Time{}, false, "closed")
	})
}

func TestIssuersAreSorted(t *testing.T) {
	var cfg []usertoken.OIDC
	for _, name := range []string{"c", "a", "d", "b", "e"} {
		cfg = append(cfg, usertoken.OIDC{
			Issuer: "https://" + name + ".test", Audiences: []string{audience}, JWKSFile: filepath.Join(t.TempDir(), "keys.json"),
		})
	}
	v := open(t, usertoken.Config{OIDC: cfg})
	var names []string
	for _, is := range v.Issuers() {
		names = append(names, is.Issuer)
	}
	if want := []string{"https://a.test", "https://b.test", "https://c.test", "https://d.test", "https://e.test"}; !slices.Equal(names, want) {
		t.Errorf("issuers %v, want %v", names, want)
	}
}

// What is between two retries must be logged when it happens, whatever the clock.
func TestTooOldIsLoggedAtTheMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	key := identitytest.NewTokenKey(t, "1", jose.ES256)
	for name, test := range map[string]struct {
		drift       time.Duration // of the clock, after the last fetch
		quiet, loud time.Duration // since the last fetch
	}{
		"between two retries":      {0, 6 * time.Minute, 6*time.Minute + time.Millisecond},
		"clock slower than timers": {-30 * time.Second, 6*time.Minute + 30*time.Second, 6*time.Minute + 30*time.Second + time.Millisecond},
		"clock jumps ahead":        {time.Hour, time.Second, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				file(t, path, set(key.JWK()))
				var logged journal
				var drift atomic.Int64
				v, err := usertoken.New(t.Context(), usertoken.Config{
					OIDC: []usertoken.OIDC{{Issuer: issuerOfFile, Audiences: []string{audience}, JWKSFile: path, MaxKeyAge: 6 * time.Minute}},
					Now:  func() time.Time { return time.Now().Add(time.Duration(drift.Load())) },
					Log:  logged.log(),
				})
				if err != nil {
					t.Fatal(err)
				}
				defer v.Close() //nolint:errcheck // always nil
				synctest.Wait()
				fetched := time.Now()
				drift.Store(int64(test.drift))
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				time.Sleep(test.quiet)
				synctest.Wait()
				if n := logged.count("level=ERROR"); n != 0 {
					t.Errorf("logged too early:\n%s", &logged)
				}
				time.Sleep(time.Until(fetched.Add(test.loud)))
				synctest.Wait()
				if n := logged.count(lineTooOld); n != 1 {
					t.Errorf("logged %d times, want once:\n%s", n, &logged)
				}
				if n := logged.count("no such file"); n != 2 { // the WARN, and why in the ERROR
					t.Errorf("the error is there %d times, want 2:\n%s", n, &logged)
				}
				time.Sleep(20 * time.Minute)
				file(t, path, set(key.JWK()))
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if errs, back := logged.count("level=ERROR"), logged.count(lineReceived); errs != 1 || back != 2 {
					t.Errorf("%d ERROR and %d received, want 1 and 2:\n%s", errs, back, &logged)
				}
				// The next time is news again, at the moment again.
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Until(v.Issuers()[0].KeysFrom.Add(6*time.Minute - test.drift)))
				synctest.Wait()
				if n := logged.count(lineTooOld); n != 1 {
					t.Errorf("logged %d times, want once yet:\n%s", n, &logged)
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if n := logged.count(lineTooOld); n != 2 {
					t.Errorf("logged %d times, want twice:\n%s", n, &logged)
				}
			})
		})
	}
}

// An issuer that hangs must delay neither the state nor the log.
func TestIssuerStateWhileIssuerHangs(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	var logged journal
	cfg := quick(issuer)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{cfg}, Log: logged.log()})
	accept(t, v, issuer.Token(t, issuer.Claims(audience)))
	release := make(chan struct{})
	hung := make(chan struct{})
	var once sync.Once
	issuer.Answer(from(issuer, good(issuer), func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(hung) })
		select {
		case <-release:
		case <-r.Context().Done():
		}
		_, _ = io.Copy(w, bytes.NewReader(issuer.JWKS()))
	}))
	<-hung
	until(t, func() bool { return !v.Issuers()[0].Usable })
	if err := v.Issuers()[0].Err; err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("trouble %v", err)
	}
	until(t, func() bool { return logged.count(lineTooOld) == 1 })
	if n := logged.count(lineReceived); n != 1 {
		t.Errorf("%d received before the issuer is back:\n%s", n, &logged)
	}
	time.Sleep(200 * time.Millisecond) // so that what hangs is too old itself
	close(release)
	until(t, func() bool { is := v.Issuers()[0]; return is.Usable && is.Err == nil })
	// The next attempt is what brings them back.
	until(t, func() bool { return logged.count(lineReceived) == 2 })
	if n := logged.count(lineTooOld); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, &logged)
	}
}

// until waits for what a goroutine is about to do, much less long than a fetch
// may take.
func until(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(8 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still not")
		}
	}
}

func TestIssuerStateDuringRotation(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{quick(issuer)}})
	accept(t, v, issuer.Token(t, issuer.Claims(audience)))
	all(4, func(int) {
		var last time.Time
		for range 200 {
			is := v.Issuers()[0]
			if is.KeysFrom.Before(last) {
				t.Errorf("keys from %v after %v", is.KeysFrom, last)
			}
			last = is.KeysFrom
			time.Sleep(time.Millisecond)
		}
	})
}
