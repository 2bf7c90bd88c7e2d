package identity_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/devauthority"
	"github.com/sallyport/sallyport/identity/identitytest"
)

func TestJWTSVID(t *testing.T) {
	a := startAuthority(t, devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads()})
	server := open(t, identity.Config{WorkloadAPI: a.Socket("server"), JWTBundles: true})
	caller := open(t, identity.Config{WorkloadAPI: a.Socket("clinic")})
	svid, err := caller.FetchJWTSVID(t.Context(), "sallyport", "other")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"sallyport", "other"}, svid.Audience); diff != "" || svid.ID != clinic {
		t.Errorf("of %s, audience: %s", svid.ID, diff)
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), server, []string{"sallyport"}); err != nil {
		t.Error(err)
	}
	if err := a.RotateJWTKey(home, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key that is rotated away is known no more", func() bool {
		_, err := jwtsvid.ParseAndValidate(svid.Marshal(), server, []string{"sallyport"})
		return err != nil
	})
}

func TestJWTRefused(t *testing.T) {
	a := startAuthority(t, devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads()})
	with := open(t, identity.Config{WorkloadAPI: a.Socket("clinic"), JWTBundles: true})
	without := open(t, identity.Config{WorkloadAPI: a.Socket("clinic")})
	closed := open(t, identity.Config{WorkloadAPI: a.Socket("clinic"), JWTBundles: true})
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	elsewhere := identitytest.NewCA(t, "elsewhere.test").TrustDomain()
	for _, tt := range []struct {
		name string
		call func() error
		want string
	}{
		{"bundle of a domain that is not federated", func() error { _, err := with.GetJWTBundleForTrustDomain(elsewhere); return err }, "elsewhere.test"},
		{"bundle that was not asked for", func() error { _, err := without.GetJWTBundleForTrustDomain(home); return err }, "without JWT bundles"},
		{"bundle of a closed source", func() error { _, err := closed.GetJWTBundleForTrustDomain(home); return err }, "closed"},
		{"SVID of a closed source", func() error { _, err := closed.FetchJWTSVID(t.Context(), "x"); return err }, "closed"},
		{"SVID for nobody", func() error { _, err := with.FetchJWTSVID(t.Context()); return err }, "no audience"},
		{"SVID for an empty audience", func() error { _, err := with.FetchJWTSVID(t.Context(), ""); return err }, "audience must be specified"},
		{"SVID when there is no time", func() error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := with.FetchJWTSVID(ctx, "x")
			return err
		}, "canceled"},
	} {
		if err := tt.call(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Bundles that may long be out of date verify nothing.
func TestJWTBundlesGrowOld(t *testing.T) {
	a := startAuthority(t, devauthority.Config{Dir: shortDir(t), Workloads: devauthority.DefaultWorkloads()})
	s := open(t, identity.Config{WorkloadAPI: a.Socket("server"), JWTBundles: true})
	for since, good := range map[time.Duration]bool{time.Minute: true, 2 * time.Hour: false} {
		identity.AwaySince(s, time.Now().Add(-since))
		if _, err := s.GetJWTBundleForTrustDomain(home); (err == nil) != good {
			t.Errorf("away for %v: %v", since, err)
		}
	}
}
