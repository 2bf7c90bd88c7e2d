package usertoken_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity/usertoken"
)

var zero spiffeid.TrustDomain

func TestRefusedConfigurations(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := usertoken.OIDC{Issuer: "https://issuer.test", Audiences: []string{"a"}, JWKSFile: "keys.json"}
	with := func(change func(*usertoken.OIDC)) usertoken.Config {
		o := good
		change(&o)
		return usertoken.Config{OIDC: []usertoken.OIDC{o}}
	}
	svids := func(change func(*usertoken.JWTSVID)) usertoken.Config {
		j := usertoken.JWTSVID{TrustDomains: domains("own.test"), Audiences: []string{"a"}, Bundles: jwtbundle.NewSet()}
		change(&j)
		return usertoken.Config{JWTSVID: &j}
	}
	for name, test := range map[string]struct {
		cfg  usertoken.Config
		want []string
	}{
		"nothing":            {usertoken.Config{}, []string{"nothing could be accepted"}},
		"no issuer":          {with(func(o *usertoken.OIDC) { o.Issuer = "" }), []string{"issuer: no URL"}},
		"http":               {with(func(o *usertoken.OIDC) { o.Issuer = "http://issuer.test" }), []string{"neither https nor http of a loopback"}},
		"name like loopback": {with(func(o *usertoken.OIDC) { o.Issuer = "http://127.0.0.1.issuer.test" }), []string{"neither https nor http of a loopback"}},
		"another scheme":     {with(func(o *usertoken.OIDC) { o.Issuer = "spiffe://issuer.test" }), []string{"neither https nor http of a loopback"}},
		"not a URL":          {with(func(o *usertoken.OIDC) { o.Issuer = "https://a b" }), []string{"not a URL"}},
		"query":              {with(func(o *usertoken.OIDC) { o.Issuer += "?x=1" }), []string{"has a query"}},
		"fragment":           {with(func(o *usertoken.OIDC) { o.Issuer += "#x" }), []string{"has a query or a fragment"}},
		"password":           {with(func(o *usertoken.OIDC) { o.Issuer = "https://a:b@issuer.test" }), []string{"user or password"}},
		"no audience":        {with(func(o *usertoken.OIDC) { o.Audiences = nil }), []string{"no audience"}},
		"empty audience":     {with(func(o *usertoken.OIDC) { o.Audiences = []string{"a", ""} }), []string{"an empty audience"}},
		"alg none":           {with(func(o *usertoken.OIDC) { o.Algorithms = []string{"RS256", "none"} }), []string{`"none"`}},
		"alg HS256":          {with(func(o *usertoken.OIDC) { o.Algorithms = []string{"HS256"} }), []string{`"HS256"`}},
		"alg unknown":        {with(func(o *usertoken.OIDC) { o.Algorithms = []string{""} }), []string{`algorithm ""`}},
		"keys on http":       {with(func(o *usertoken.OIDC) { o.JWKSFile, o.JWKSURL = "", "http://issuer.test/keys" }), []string{"URL of keys: neither"}},
		"two sources":        {with(func(o *usertoken.OIDC) { o.JWKSURL = "https://issuer.test/keys" }), []string{"both a URL and a file"}},
		"no CA file":         {with(func(o *usertoken.OIDC) { o.CAFile = empty + ".no" }), []string{"CA file"}},
		"empty CA file":      {with(func(o *usertoken.OIDC) { o.CAFile = empty }), []string{"no certificate in it"}},
		"refresh negative":   {with(func(o *usertoken.OIDC) { o.RefreshInterval = -1 }), []string{"is negative"}},
		"age below refresh":  {with(func(o *usertoken.OIDC) { o.RefreshInterval = 2 * time.Hour }), []string{"1h0m0s is less than the refresh interval, 2h0m0s"}},
		"life negative":      {usertoken.Config{OIDC: []usertoken.OIDC{good}, MaxLifetime: -1}, []string{"is negative"}},
		"issuer twice":       {usertoken.Config{OIDC: []usertoken.OIDC{good, good}}, []string{"is there twice"}},
		"no trust domain":    {svids(func(j *usertoken.JWTSVID) { j.TrustDomains = nil }), []string{"no trust domain"}},
		"empty trust domain": {svids(func(j *usertoken.JWTSVID) { j.TrustDomains = append(j.TrustDomains, zero) }), []string{"an empty trust domain"}},
		"no audience, SVIDs": {svids(func(j *usertoken.JWTSVID) { j.Audiences = nil }), []string{"JWT-SVIDs: no audience"}},
		"no bundles":         {svids(func(j *usertoken.JWTSVID) { j.Bundles = nil }), []string{"no source of bundles"}},
		"several": {usertoken.Config{OIDC: []usertoken.OIDC{{}, {Issuer: "http://x"}}, JWTSVID: &usertoken.JWTSVID{}}, []string{
			"OIDC issuer 1", "OIDC issuer 2", "JWT-SVIDs: no audience", "no trust domain", "no source of bundles",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := usertoken.New(t.Context(), test.cfg)
			if err == nil {
				_ = v.Close()
				t.Fatal("accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
	for name, cfg := range map[string]usertoken.Config{
		"least":     with(func(*usertoken.OIDC) {}),
		"loopback":  with(func(o *usertoken.OIDC) { o.Issuer = "http://[::1]:5556/dex" }),
		"localhost": with(func(o *usertoken.OIDC) { o.Issuer = "http://localhost:5556" }),
		"SVIDs":     svids(func(*usertoken.JWTSVID) {}),
	} {
		t.Run(name, func(t *testing.T) { open(t, cfg) })
	}
}
