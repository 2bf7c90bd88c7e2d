package identity_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/devauthority"
)

// logged is a log that a test reads while it is written.
type logged struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines are those that contain text.
func (l *logged) lines(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

func openLogged(t *testing.T, cfg identity.Config) (*identity.Source, *logged) {
	t.Helper()
	log := new(logged)
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	src, err := identity.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src, log
}

// eventually waits until ok, with a bound.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func away(src *identity.Source, code codes.Code) func() bool {
	return func() bool {
		since, err := src.Away()
		return !since.IsZero() && status.Code(err) == code
	}
}

func back(src *identity.Source) func() bool {
	return func() bool {
		since, err := src.Away()
		return since.IsZero() && err == nil
	}
}

func TestAgentEndsAndComesBack(t *testing.T) {
	t.Parallel()
	cfg := devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads()}
	a := startAuthority(t, cfg)
	src, log := openLogged(t, identity.Config{WorkloadAPI: a.Socket("clinic"), JWTBundles: true})
	if !back(src)() {
		t.Fatal("away from the start")
	}
	before, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "away", away(src, codes.Unavailable))
	for range 2 { // also after the first retries
		if svid, err := src.GetX509SVID(); err != nil || svid != before {
			t.Errorf("SVID while away: %v", err)
		}
		if _, err := src.GetX509BundleForTrustDomain(home); err != nil {
			t.Errorf("bundle while away: %v", err)
		}
		if _, err := src.GetJWTBundleForTrustDomain(home); err != nil {
			t.Errorf("JWT bundle while away: %v", err)
		}
		time.Sleep(1500 * time.Millisecond)
	}
	said := log.lines("going on with what is there")
	if len(said) != 1 || !strings.Contains(said[0], "level=WARN") || !strings.Contains(said[0], "identity_left=59m") {
		t.Errorf("said: %q", said)
	}
	startAuthority(t, cfg)
	eventually(t, "back", func() bool { return back(src)() && len(log.lines("is back")) == 2 })
	if svid, err := src.GetX509SVID(); err != nil || svid == before {
		t.Errorf("no new SVID: %v", err)
	}
}

func TestEntryIsDeleted(t *testing.T) {
	t.Parallel()
	a := startAuthority(t, devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads(), TTL: 4 * time.Second})
	src, log := openLogged(t, identity.Config{WorkloadAPI: a.Socket("clinic")})
	var id spiffeid.ID
	if err := a.Update("clinic", func(w *devauthority.Workload) { id, w.ID = w.ID, spiffeid.ID{} }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "away", away(src, codes.PermissionDenied))
	if _, err := src.GetX509SVID(); err != nil {
		t.Errorf("SVID while its entry is gone: %v", err)
	}
	// It is told once more, loudly, when the SVID has expired.
	eventually(t, "the SVID's end is said", func() bool { return len(log.lines("the SVID has expired")) == 1 })
	if line := log.lines("the SVID has expired")[0]; !strings.Contains(line, "level=ERROR") || time.Now().Before(src.NotAfter()) {
		t.Errorf("said: %q", line)
	}
	if err := a.Update("clinic", func(w *devauthority.Workload) { w.ID = id }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "back", back(src))
	if !time.Now().Before(src.NotAfter()) {
		t.Error("no new SVID")
	}
}

func TestFederatedBundleLeavesAndReturns(t *testing.T) {
	t.Parallel()
	partner := spiffeid.RequireTrustDomainFromString("partner.test")
	a := startAuthority(t, devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads()})
	src := open(t, identity.Config{WorkloadAPI: a.Socket("server"), JWTBundles: true})
	for _, federated := range [][]spiffeid.TrustDomain{nil, {partner}} {
		updated := src.Updated()
		if err := a.Update("server", func(w *devauthority.Workload) { w.FederatesWith = federated }); err != nil {
			t.Fatal(err)
		}
		next(t, updated)
		_, err := src.GetX509BundleForTrustDomain(partner)
		if got := err == nil; got != (federated != nil) || slices.Contains(src.TrustDomains(), partner) != got {
			t.Errorf("federated with %v: %v", federated, err)
		}
		eventually(t, "the JWT bundle follows", func() bool {
			_, err := src.GetJWTBundleForTrustDomain(partner)
			return (err == nil) == (federated != nil)
		})
		if !back(src)() {
			t.Error("away")
		}
	}
}
