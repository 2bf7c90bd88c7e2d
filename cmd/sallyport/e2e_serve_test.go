package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity/devauthority"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
)

// config is that of a site, every path relative to it.
const config = `
listen: 127.0.0.1:0
identity:
  workload_api: unix:workloads/server.sock
  start_timeout: 30s
  trust_domains: [sallyport.test]
policy:
  file: policy.yaml
models:
  directory: models
audit:
  directory: audit
  digest_key: {file: audit.key}
  signing_key: {file: audit-signing.key}
admin:
  listen: 127.0.0.1:0
`

// newSite is a directory with all that `sallyport serve` needs, the Workload API
// included. More is added to the configuration.
func newSite(t testing.TB, more string) (dir string) {
	t.Helper()
	dir = newConfig(t, more)
	startAuthority(t, dir, time.Hour)
	return dir
}

// newConfig is newSite without the Workload API.
func newConfig(t testing.TB, more string) (dir string) {
	t.Helper()
	dir = shortDir(t)
	write(t, dir+"/sallyport.yaml", config+more)
	write(t, dir+"/policy.yaml", generous)
	write(t, dir+"/audit.key", strings.Repeat("k", 32))
	write(t, dir+"/audit-signing.key", audittest.Private)
	models, err := filepath.Abs("../../examples/models")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(models, dir+"/models"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startAuthority serves the Workload API until the test ends or it is closed.
func startAuthority(t testing.TB, dir string, ttl time.Duration) *devauthority.Authority {
	t.Helper()
	authority, err := devauthority.Start(devauthority.Config{
		Dir: dir, TTL: ttl, Workloads: append(devauthority.DefaultWorkloads(), devauthority.Workload{Name: "nobody"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = authority.Close() })
	return authority
}

// startServe runs `sallyport serve` on a site until the test ends.
func startServe(t testing.TB, dir string) *server {
	t.Helper()
	return start(t, dir, "serve", "--config", dir+"/sallyport.yaml")
}
