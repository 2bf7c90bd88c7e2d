package devauthority_test

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity/devauthority"
)

// authorities starts an authority at a time and returns the bundle it serves.
func authorities(t *testing.T, dir string, now time.Time) []*x509.Certificate {
	t.Helper()
	a := start(t, devauthority.Config{Dir: dir, Now: func() time.Time { return now }})
	bundle, err := fetch(t, a, "clinic").Bundles.GetX509BundleForTrustDomain(home)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return bundle.X509Authorities()
}

func TestCAOutlivesRestarts(t *testing.T) {
	const day = 24 * time.Hour
	dir, now := shortDir(t), time.Now()

	first := authorities(t, dir, now)
	again := authorities(t, dir, now.Add(200*day))
	if len(first) != 1 || len(again) != 1 || !first[0].Equal(again[0]) {
		t.Fatal("a restart made another CA")
	}
	replaced := authorities(t, dir, now.Add(300*day))
	if len(replaced) != 2 || replaced[0].Equal(first[0]) || !replaced[1].Equal(first[0]) {
		t.Fatal("a CA near its end is not replaced, or no longer in the bundle")
	}
	gone := authorities(t, dir, now.Add(400*day))
	if len(gone) != 1 || !gone[0].Equal(replaced[0]) {
		t.Fatal("the expired CA has not left the bundle, or the new one is not kept")
	}
	if last := authorities(t, dir, now.Add(600*day)); len(last) != 2 || !last[1].Equal(replaced[0]) {
		t.Fatal("the second CA near its end is not replaced, or no longer in the bundle")
	}
}

func TestSVIDEndsWithItsCA(t *testing.T) {
	a := start(t, devauthority.Config{Dir: shortDir(t), TTL: 10 * 365 * 24 * time.Hour})
	got := fetch(t, a, "clinic")
	bundle, err := got.Bundles.GetX509BundleForTrustDomain(home)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := got.DefaultSVID().Certificates[0]; leaf.NotAfter.After(bundle.X509Authorities()[0].NotAfter) {
		t.Errorf("SVID ends at %v", leaf.NotAfter)
	}
}

func TestBadState(t *testing.T) {
	const pemEnd = "-----END PRIVATE KEY-----\n"
	for _, tt := range []struct {
		name   string
		mode   os.FileMode
		damage func(own, other []byte) []byte
		want   string
	}{
		{"open to the group", 0o640, nil, "chmod 600"},
		{"open to others", 0o604, nil, "chmod 600"},
		{"empty", 0o600, func([]byte, []byte) []byte { return nil }, "no private key"},
		{"cut in the key", 0o600, func(own, _ []byte) []byte { return own[:80] }, "not PEM"},
		{"cut after the key", 0o600, func(own, _ []byte) []byte { return own[:bytes.Index(own, []byte(pemEnd))+len(pemEnd)] }, "no certificate"},
		{"certificate without key", 0o600, func(own, _ []byte) []byte { return own[bytes.Index(own, []byte(pemEnd))+len(pemEnd):] }, "no private key"},
		{"tail that is not PEM", 0o600, func(own, _ []byte) []byte { return append(own, "x"...) }, "not PEM"},
		{"unknown block", 0o600, func(own, _ []byte) []byte {
			return bytes.ReplaceAll(own, []byte("CERTIFICATE"), []byte("CERTIFICATES"))
		}, "unknown block"},
		{"no DER in the key", 0o600, func(own, _ []byte) []byte {
			return append([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n"+pemEnd), own...)
		}, "asn1"},
		{"CA of another domain", 0o600, func(_, other []byte) []byte { return other }, "not the CA of sallyport.test"},
		{"key of another CA", 0o600, func(own, other []byte) []byte {
			key := other[:bytes.Index(other, []byte(pemEnd))+len(pemEnd)]
			return append(bytes.Clone(key), own[bytes.Index(own, []byte(pemEnd))+len(pemEnd):]...)
		}, "do not belong together"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := shortDir(t)
			cfg := devauthority.Config{Dir: dir, Workloads: []devauthority.Workload{
				{Name: "clinic", ID: spiffeid.RequireFromPath(home, "/clinic")},
				{Name: "outsider", ID: spiffeid.RequireFromPath(elsewhere, "/outsider")},
			}}
			a := start(t, cfg)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "authority", "sallyport.test.pem")
			own, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			other, err := os.ReadFile(filepath.Join(dir, "authority", "elsewhere.test.pem"))
			if err != nil {
				t.Fatal(err)
			}
			if tt.damage != nil {
				own = tt.damage(own, other)
			}
			if err := os.WriteFile(path, own, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err = devauthority.Start(cfg)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{path, tt.want, "remove it"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if now, _ := os.ReadFile(path); !bytes.Equal(now, own) {
				t.Error("the file was changed")
			}
		})
	}
}
