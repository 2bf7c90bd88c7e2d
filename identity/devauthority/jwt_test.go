package devauthority_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity/devauthority"
)

func TestJWTSVID(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t)})
	svid, err := client(t, a, "clinic").FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "sallyport", ExtraAudiences: []string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	if svid.ID.String() != "spiffe://sallyport.test/clinic/triage" {
		t.Errorf("of %s", svid.ID)
	}
	if diff := cmp.Diff([]string{"sallyport", "other"}, svid.Audience); diff != "" {
		t.Errorf("audience: %s", diff)
	}
	if left := time.Until(svid.Expiry); left > 5*time.Minute || left < 4*time.Minute {
		t.Errorf("expires in %v", left)
	}
	token, err := jwt.ParseSigned(svid.Marshal(), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	header := token.Headers[0]
	if header.KeyID == "" || header.ExtraHeaders[jose.HeaderType] != "JWT" {
		t.Errorf("header %+v", header)
	}

	// Whoever has a bundle of the domain can verify it, others cannot.
	for name, want := range map[string]bool{"clinic": true, "partner": true, "intern": true} {
		bundles, err := client(t, a, name).FetchJWTBundles(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{"sallyport"}); (err == nil) != want {
			t.Errorf("for %s: %v", name, err)
		}
	}
	foreign, err := client(t, a, "partner").FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "sallyport"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, by, token, audience string
		good                      bool
	}{
		{"own", "clinic", svid.Marshal(), "sallyport", true},
		{"second audience", "clinic", svid.Marshal(), "other", true},
		{"federated", "server", foreign.Marshal(), "sallyport", true},
		{"not federated", "clinic", foreign.Marshal(), "sallyport", false},
		{"wrong audience", "clinic", svid.Marshal(), "third", false},
		{"no audience", "clinic", svid.Marshal(), "", false},
		{"another signature", "clinic", svid.Marshal()[:strings.LastIndex(svid.Marshal(), ".")+1] + foreign.Marshal()[strings.LastIndex(foreign.Marshal(), ".")+1:], "sallyport", false},
		{"no token", "clinic", "", "sallyport", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := client(t, a, tt.by).ValidateJWTSVID(t.Context(), tt.token, tt.audience)
			if tt.good {
				if err != nil {
					t.Fatal(err)
				}
				if claims := got.Claims["sub"]; claims != got.ID.String() {
					t.Errorf("claims of %v", claims)
				}
				return
			}
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("error %v", err)
			}
			if tt.token != "" && strings.Contains(err.Error(), tt.token) {
				t.Error("the error repeats the token")
			}
		})
	}
}

func TestJWTSVIDRefused(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t)})
	conn, err := grpc.NewClient("unix://"+a.Socket("clinic"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	api := workload.NewSpiffeWorkloadAPIClient(conn)
	for _, tt := range []struct {
		name string
		req  *workload.JWTSVIDRequest
		want codes.Code
	}{
		{"own ID", &workload.JWTSVIDRequest{Audience: []string{"x"}, SpiffeId: "spiffe://sallyport.test/clinic/triage"}, codes.OK},
		{"no audience", &workload.JWTSVIDRequest{}, codes.InvalidArgument},
		{"empty audience", &workload.JWTSVIDRequest{Audience: []string{"x", ""}}, codes.InvalidArgument},
		{"another ID", &workload.JWTSVIDRequest{Audience: []string{"x"}, SpiffeId: "spiffe://sallyport.test/intern"}, codes.PermissionDenied},
		{"no ID", &workload.JWTSVIDRequest{Audience: []string{"x"}, SpiffeId: "clinic"}, codes.InvalidArgument},
	} {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true"), 10*time.Second)
		_, err := api.FetchJWTSVID(ctx, tt.req)
		cancel()
		if status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestJWTSVIDExpires(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t), Now: func() time.Time { return time.Now().Add(-time.Hour) }, JWTTTL: time.Minute})
	_, err := client(t, a, "clinic").FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "x"})
	if err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an hour later: %v", err)
	}
}

func TestJWTKeyRotates(t *testing.T) {
	dir := shortDir(t)
	a := start(t, devauthority.Config{Dir: dir})
	s := watch(t, a, "server")
	issue := func() string {
		svid, err := client(t, a, "clinic").FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "x"})
		if err != nil {
			t.Fatal(err)
		}
		return svid.Marshal()
	}
	old := issue()
	if err := a.RotateJWTKey(home, time.Second); err != nil {
		t.Fatal(err)
	}
	fresh := issue()
	both := receive(t, s.jwt)
	for _, token := range []string{old, fresh} {
		if _, err := jwtsvid.ParseAndValidate(token, both, []string{"x"}); err != nil {
			t.Errorf("with both keys in the bundle: %v", err)
		}
	}
	alone := receive(t, s.jwt)
	if _, err := jwtsvid.ParseAndValidate(fresh, alone, []string{"x"}); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if _, err := jwtsvid.ParseAndValidate(old, alone, []string{"x"}); err == nil {
		t.Error("the old key has not left")
	}
	quiet(t, s.contexts)
}

// TestJWKS holds the form that the bundle format of SPIFFE wants.
func TestJWKS(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t)})
	conn, err := grpc.NewClient("unix://"+a.Socket("clinic"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true"), 10*time.Second)
	defer cancel()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchJWTBundles(ctx, new(workload.JWTBundlesRequest))
	if err != nil {
		t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var jwks struct{ Keys []map[string]string }
	if err := json.Unmarshal(got.GetBundles()["spiffe://sallyport.test"], &jwks); err != nil || len(jwks.Keys) != 1 {
		t.Fatalf("%d keys: %v", len(jwks.Keys), err)
	}
	key := jwks.Keys[0]
	if key["use"] != "jwt-svid" || key["kty"] != "EC" || key["crv"] != "P-256" || key["kid"] == "" || key["d"] != "" {
		t.Errorf("key %v", key)
	}
}

func TestBadJWTState(t *testing.T) {
	cfg := devauthority.Config{Dir: shortDir(t), Workloads: []devauthority.Workload{{Name: "clinic", ID: spiffeid.RequireFromPath(home, "/clinic")}}}
	if err := start(t, cfg).Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.Dir, "authority", "sallyport.test+jwt.pem")
	for _, tt := range []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"open to the group", "", 0o640, "chmod 600"},
		{"empty", "", 0o600, "no private key"},
		{"not PEM", "x", 0o600, "not PEM"},
		{"unknown block", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o600, "unknown block"},
		{"key that is none", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "asn1"},
	} {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := devauthority.Start(cfg)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", tt.name, err)
		}
	}
}
