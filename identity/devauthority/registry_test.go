package devauthority_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity/devauthority"
)

var partner = spiffeid.RequireTrustDomainFromString("partner.test")

// streams are the three streams of one workload, by go-spiffe's client.
type streams struct {
	contexts    contexts
	bundles     x509Bundles
	jwt         jwtBundles
	failedFirst chan error
}

type x509Bundles chan *x509bundle.Set

func (c x509Bundles) OnX509BundlesUpdate(u *x509bundle.Set) { c <- u }
func (x509Bundles) OnX509BundlesWatchError(error)           {}

type jwtBundles chan *jwtbundle.Set

func (c jwtBundles) OnJWTBundlesUpdate(u *jwtbundle.Set) { c <- u }
func (jwtBundles) OnJWTBundlesWatchError(error)          {}

// failing keeps the first error of a watch.
type failing struct {
	contexts
	first chan error
}

func (f failing) OnX509ContextWatchError(err error) {
	select {
	case f.first <- err:
	default:
	}
}

// watch opens the streams and takes the first update of each.
func watch(t *testing.T, a *devauthority.Authority, name string) *streams {
	t.Helper()
	s := &streams{make(contexts, 8), make(x509Bundles, 8), make(jwtBundles, 8), make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	c := client(t, a, name)
	var watching sync.WaitGroup
	watching.Go(func() { _ = c.WatchX509Context(ctx, failing{s.contexts, s.failedFirst}) })
	watching.Go(func() { _ = c.WatchX509Bundles(ctx, s.bundles) })
	watching.Go(func() { _ = c.WatchJWTBundles(ctx, s.jwt) })
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	receive(t, s.contexts)
	receive(t, s.bundles)
	receive(t, s.jwt)
	return s
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// quiet demands that nothing comes.
func quiet[T any](t *testing.T, c <-chan T) {
	t.Helper()
	select {
	case v := <-c:
		t.Errorf("came: %v", v)
	case <-time.After(100 * time.Millisecond):
	}
}

func update(t *testing.T, a *devauthority.Authority, name string, change func(*devauthority.Workload)) {
	t.Helper()
	if err := a.Update(name, change); err != nil {
		t.Fatal(err)
	}
}

func names(bundles *jwtbundle.Set) (all []string) {
	for _, b := range bundles.Bundles() {
		all = append(all, b.TrustDomain().Name())
	}
	return all
}

func TestFederationComesAndGoes(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t)})
	server, clinic := watch(t, a, "server"), watch(t, a, "clinic")
	before := fetch(t, a, "server")
	svid := func(c *workloadapi.X509Context) string { return c.DefaultSVID().Certificates[0].SerialNumber.String() }
	var serials []string
	for _, federated := range [][]spiffeid.TrustDomain{nil, {partner}, {partner, elsewhere}} {
		update(t, a, "server", func(w *devauthority.Workload) { w.FederatesWith = federated })
		want := []string{"sallyport.test"}
		for _, td := range federated {
			want = append(want, td.Name())
		}
		slices.Sort(want)
		got := receive(t, server.contexts)
		serials = append(serials, svid(got))
		if diff := cmp.Diff(want, trustDomains(got)); diff != "" {
			t.Errorf("X.509 context: %s", diff)
		}
		if diff := cmp.Diff(want, trustDomains(&workloadapi.X509Context{Bundles: receive(t, server.bundles)})); diff != "" {
			t.Errorf("X.509 bundles: %s", diff)
		}
		if diff := cmp.Diff(want, names(receive(t, server.jwt))); diff != "" {
			t.Errorf("JWT bundles: %s", diff)
		}
	}
	if len(slices.Compact(serials)) != 1 {
		t.Error("the SVID changed with the bundles")
	}
	if svid(before) == serials[0] {
		t.Error("two streams got the same SVID")
	}
	// Whom it does not concern hears nothing.
	quiet(t, clinic.contexts)
	quiet(t, clinic.bundles)
	quiet(t, clinic.jwt)
}

func TestEntryComesAndGoes(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t)})
	s := watch(t, a, "clinic")
	var id spiffeid.ID
	update(t, a, "clinic", func(w *devauthority.Workload) { id, w.ID = w.ID, spiffeid.ID{} })
	// The stream that was open has ended so.
	if err := receive(t, s.failedFirst); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "no identity issued") {
		t.Errorf("the stream ended with %v", err)
	}
	if _, err := client(t, a, "clinic").FetchX509SVID(t.Context()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a new one with %v", err)
	}
	update(t, a, "clinic", func(w *devauthority.Workload) { w.ID = id })
	if got := receive(t, s.contexts).DefaultSVID().ID; got != id {
		t.Errorf("it came back as %s", got)
	}
	receive(t, s.bundles)
	receive(t, s.jwt)

	other := spiffeid.RequireFromPath(partner, "/lab/other")
	update(t, a, "clinic", func(w *devauthority.Workload) { w.ID, w.DNSNames = other, []string{"other.test"} })
	got := receive(t, s.contexts)
	if svid := got.DefaultSVID(); svid.ID != other || !slices.Equal(svid.Certificates[0].DNSNames, []string{"other.test"}) {
		t.Errorf("it is now %s", svid.ID)
	}
	if diff := cmp.Diff([]string{"partner.test"}, trustDomains(got)); diff != "" {
		t.Error(diff)
	}
}

func TestUpdateFails(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t)})
	s := watch(t, a, "clinic")
	for _, tt := range []struct {
		name, workload string
		change         func(*devauthority.Workload)
		want           string
	}{
		{"unknown workload", "nobody", func(*devauthority.Workload) {}, `no workload "nobody"`},
		{"ID without path", "clinic", func(w *devauthority.Workload) { w.ID = home.ID() }, "names a trust domain"},
		{"federation with nobody", "clinic", func(w *devauthority.Workload) { w.FederatesWith = make([]spiffeid.TrustDomain, 1) }, "without a name"},
	} {
		if err := a.Update(tt.workload, tt.change); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	unknown := spiffeid.RequireTrustDomainFromString("unknown.test")
	if err := errors.Join(a.RotateCA(unknown, 0), a.RotateJWTKey(unknown, 0)); err == nil || strings.Count(err.Error(), "no workload needs") != 2 {
		t.Errorf("rotation of an unknown domain: %v", err)
	}
	quiet(t, s.contexts)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a.Update("clinic", func(*devauthority.Workload) {}) == nil || a.RotateCA(home, 0) == nil || a.RotateJWTKey(home, 0) == nil {
		t.Error("a closed authority changes its files")
	}
}

func TestCARotates(t *testing.T) {
	dir := shortDir(t)
	a := start(t, devauthority.Config{Dir: dir})
	s := watch(t, a, "clinic")
	outsider := watch(t, a, "outsider")
	before := fetch(t, a, "clinic")
	if err := a.RotateCA(home, time.Second); err != nil {
		t.Fatal(err)
	}
	both := receive(t, s.contexts)
	svid := both.DefaultSVID()
	if _, _, err := x509svid.Verify(svid.Certificates, before.Bundles); err == nil {
		t.Error("the new SVID is of the old CA")
	}
	for _, c := range []*workloadapi.X509Context{before, both} {
		if _, _, err := x509svid.Verify(c.DefaultSVID().Certificates, both.Bundles); err != nil {
			t.Errorf("with both CAs in the bundle: %v", err)
		}
	}
	// Those that are federated hear of it too, their own SVID stays.
	if _, _, err := x509svid.Verify(svid.Certificates, receive(t, outsider.contexts).Bundles); err != nil {
		t.Errorf("for the outsider: %v", err)
	}
	receive(t, s.bundles)

	alone := receive(t, s.contexts)
	if !slices.Equal(alone.DefaultSVID().Certificates[0].Raw, svid.Certificates[0].Raw) {
		t.Error("the SVID changed because the old CA left")
	}
	if _, _, err := x509svid.Verify(before.DefaultSVID().Certificates, alone.Bundles); err == nil {
		t.Error("the old CA has not left the bundle")
	}
	if _, _, err := x509svid.Verify(svid.Certificates, receive(t, s.bundles)); err != nil {
		t.Errorf("the new CA: %v", err)
	}
	quiet(t, s.jwt)
}

func TestRotationOutlivesRestart(t *testing.T) {
	dir, now := shortDir(t), time.Now()
	begin := func(at time.Time) *devauthority.Authority {
		return start(t, devauthority.Config{Dir: dir, Now: func() time.Time { return at }})
	}
	// count is the number of CAs and of JWT keys in the bundles.
	count := func(a *devauthority.Authority) [2]int {
		x, err := fetch(t, a, "clinic").Bundles.GetX509BundleForTrustDomain(home)
		if err != nil {
			t.Fatal(err)
		}
		set, err := client(t, a, "clinic").FetchJWTBundles(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		j, err := set.GetJWTBundleForTrustDomain(home)
		if err != nil {
			t.Fatal(err)
		}
		return [2]int{len(x.X509Authorities()), len(j.JWTAuthorities())}
	}
	a := begin(now)
	for range 2 {
		if err := errors.Join(a.RotateCA(home, time.Hour), a.RotateJWTKey(home, time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(a.RotateCA(partner, 0), a.Close()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		after time.Duration
		want  [2]int
	}{{time.Minute, [2]int{3, 3}}, {59 * time.Minute, [2]int{3, 3}}, {time.Hour, [2]int{1, 1}}} {
		a := begin(now.Add(tt.after))
		if got := count(a); got != tt.want {
			t.Errorf("after %v: %v CAs and JWT keys, want %v", tt.after, got, tt.want)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
