package devauthority_test

import (
	"context"
	"crypto/x509"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity/devauthority"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	home      = spiffeid.RequireTrustDomainFromString("sallyport.test")
	elsewhere = spiffeid.RequireTrustDomainFromString("elsewhere.test")
)

// shortDir is a temporary folder in whose path a unix socket's name fits.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, cfg devauthority.Config) *devauthority.Authority {
	t.Helper()
	if cfg.Workloads == nil {
		cfg.Workloads = devauthority.DefaultWorkloads()
	}
	a, err := devauthority.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// client is go-spiffe's own client of the Workload API.
func client(t *testing.T, a *devauthority.Authority, name string) *workloadapi.Client {
	t.Helper()
	c, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+a.Socket(name)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func fetch(t *testing.T, a *devauthority.Authority, name string) *workloadapi.X509Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := client(t, a, name).FetchX509Context(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func trustDomains(c *workloadapi.X509Context) (names []string) {
	for _, b := range c.Bundles.Bundles() {
		names = append(names, b.TrustDomain().Name())
	}
	return names
}

func TestDefaultWorkloads(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t)})
	for _, tt := range []struct {
		name, id string
		dns      []string
		domains  []string
	}{
		{"server", "spiffe://sallyport.test/sallyport", []string{"localhost"}, []string{"partner.test", "sallyport.test"}},
		{"clinic", "spiffe://sallyport.test/clinic/triage", nil, []string{"sallyport.test"}},
		{"ward-batch", "spiffe://sallyport.test/ward/batch", nil, []string{"sallyport.test"}},
		{"intern", "spiffe://sallyport.test/intern", nil, []string{"sallyport.test"}},
		{"partner", "spiffe://partner.test/lab/batch", nil, []string{"partner.test", "sallyport.test"}},
		{"outsider", "spiffe://elsewhere.test/outsider", nil, []string{"elsewhere.test", "sallyport.test"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := fetch(t, a, tt.name)
			if len(got.SVIDs) != 1 {
				t.Fatalf("%d SVIDs", len(got.SVIDs))
			}
			svid := got.SVIDs[0]
			if svid.ID.String() != tt.id {
				t.Errorf("ID %s, want %s", svid.ID, tt.id)
			}
			if diff := cmp.Diff(tt.domains, trustDomains(got)); diff != "" {
				t.Errorf("bundles: %s", diff)
			}
			id, _, err := x509svid.Verify(svid.Certificates, got.Bundles)
			if err != nil || id != svid.ID {
				t.Errorf("verified as %q: %v", id, err)
			}
			leaf := svid.Certificates[0]
			if diff := cmp.Diff(tt.dns, leaf.DNSNames); diff != "" {
				t.Errorf("DNS names: %s", diff)
			}
			usages := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
			if diff := cmp.Diff(usages, leaf.ExtKeyUsage); diff != "" {
				t.Errorf("extended key usages: %s", diff)
			}
			if left := time.Until(leaf.NotAfter); left > time.Hour || left < 59*time.Minute {
				t.Errorf("expires in %v", left)
			}
			bundles, err := client(t, a, tt.name).FetchX509Bundles(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(bundles.Bundles(), got.Bundles.Bundles(), (*x509bundle.Bundle).Equal) {
				t.Error("FetchX509Bundles and FetchX509SVID differ")
			}
		})
	}
}

func TestFederation(t *testing.T) {
	workloads := devauthority.DefaultWorkloads()
	workloads[0].FederatesWith = []spiffeid.TrustDomain{elsewhere, home}
	a := start(t, devauthority.Config{Dir: shortDir(t), Workloads: workloads})
	if diff := cmp.Diff([]string{"elsewhere.test", "sallyport.test"}, trustDomains(fetch(t, a, "server"))); diff != "" {
		t.Error(diff)
	}
}

func TestRotation(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t), TTL: 2 * time.Second})
	updates := make(chan *workloadapi.X509Context, 8)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := client(t, a, "clinic")
	var watching sync.WaitGroup
	watching.Go(func() { _ = c.WatchX509Context(ctx, contexts(updates)) })
	defer watching.Wait()
	defer cancel()

	first, second := (<-updates).DefaultSVID(), (<-updates).DefaultSVID()
	if first.Certificates[0].Equal(second.Certificates[0]) {
		t.Error("the same SVID again")
	}
	if first.PrivateKey == second.PrivateKey {
		t.Error("the same key again")
	}
	if now := time.Now(); now.After(first.Certificates[0].NotAfter) {
		t.Error("rotated too late")
	}
}

type contexts chan *workloadapi.X509Context

func (c contexts) OnX509ContextUpdate(u *workloadapi.X509Context) { c <- u }
func (contexts) OnX509ContextWatchError(error)                    {}

func TestStandardRefusals(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t), Workloads: []devauthority.Workload{
		{Name: "clinic", ID: spiffeid.RequireFromPath(home, "/clinic")},
		{Name: "nobody"},
	}})
	dial := func(name string) workload.SpiffeWorkloadAPIClient {
		conn, err := grpc.NewClient("unix://"+a.Socket(name), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return workload.NewSpiffeWorkloadAPIClient(conn)
	}
	svid := func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		stream, err := c.FetchX509SVID(ctx, new(workload.X509SVIDRequest))
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	bundles := func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		stream, err := c.FetchX509Bundles(ctx, new(workload.X509BundlesRequest))
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	jwt := func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"x"}})
		return err
	}
	jwtBundles := func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		stream, err := c.FetchJWTBundles(ctx, new(workload.JWTBundlesRequest))
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	validate := func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "x", Svid: "y"})
		return err
	}
	wit := func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		stream, err := c.FetchWITSVID(ctx, new(workload.WITSVIDRequest))
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	for _, tt := range []struct {
		name, socket string
		header       []string
		call         func(context.Context, workload.SpiffeWorkloadAPIClient) error
		want         codes.Code
	}{
		{"SVID with header", "clinic", []string{"true"}, svid, codes.OK},
		{"SVID without header", "clinic", nil, svid, codes.InvalidArgument},
		{"SVID with wrong header", "clinic", []string{"false"}, svid, codes.InvalidArgument},
		{"SVID with two headers", "clinic", []string{"true", "true"}, svid, codes.InvalidArgument},
		{"bundles without header", "clinic", nil, bundles, codes.InvalidArgument},
		{"JWT without header", "clinic", nil, jwt, codes.InvalidArgument},
		{"JWT", "clinic", []string{"true"}, jwt, codes.OK},
		{"SVID of nobody", "nobody", []string{"true"}, svid, codes.PermissionDenied},
		{"bundles of nobody", "nobody", []string{"true"}, bundles, codes.PermissionDenied},
		{"JWT of nobody", "nobody", []string{"true"}, jwt, codes.PermissionDenied},
		{"JWT bundles of nobody", "nobody", []string{"true"}, jwtBundles, codes.PermissionDenied},
		{"JWT bundles without header", "clinic", nil, jwtBundles, codes.InvalidArgument},
		{"JWT bundles", "clinic", []string{"true"}, jwtBundles, codes.OK},
		{"validation by nobody", "nobody", []string{"true"}, validate, codes.PermissionDenied},
		{"WIT", "clinic", []string{"true"}, wit, codes.Unimplemented},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for _, value := range tt.header {
				ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", value)
			}
			if err := tt.call(ctx, dial(tt.socket)); status.Code(err) != tt.want {
				t.Errorf("answer %v, want %v", err, tt.want)
			}
		})
	}
}
