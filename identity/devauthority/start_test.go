package devauthority_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity/devauthority"
)

func TestPermissions(t *testing.T) {
	dir := shortDir(t)
	// Folders that were there before, open to all, are closed.
	for _, name := range []string{"workloads", "authority"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	start(t, devauthority.Config{Dir: dir})
	for path, want := range map[string]fs.FileMode{
		"workloads":                        0o700 | fs.ModeDir,
		"workloads/server.sock":            0o600 | fs.ModeSocket,
		"workloads/outsider.sock":          0o600 | fs.ModeSocket,
		"authority":                        0o700 | fs.ModeDir,
		"authority/sallyport.test.pem":     0o600,
		"authority/elsewhere.test.pem":     0o600,
		"authority/sallyport.test+jwt.pem": 0o600,
		"workloads/partner.sock":           0o600 | fs.ModeSocket,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode(); got != want {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
}

func TestOneAuthorityAFolder(t *testing.T) {
	dir := shortDir(t)
	a := start(t, devauthority.Config{Dir: dir})
	if _, err := devauthority.Start(devauthority.Config{Dir: dir, Workloads: devauthority.DefaultWorkloads()}); err == nil || !strings.Contains(err.Error(), "another one is running on "+dir) {
		t.Fatalf("second authority: %v", err)
	}
	fetch(t, a, "clinic") // the first is not hurt
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if sockets, _ := filepath.Glob(filepath.Join(dir, "workloads", "*")); len(sockets) != 0 {
		t.Errorf("sockets left: %v", sockets)
	}
	start(t, devauthority.Config{Dir: dir})
}

func TestSocketOfDeadProcess(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "workloads", "clinic.sock")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	fetch(t, start(t, devauthority.Config{Dir: dir}), "clinic")
}

func TestStartFails(t *testing.T) {
	id := spiffeid.RequireFromPath(home, "/clinic")
	one := []devauthority.Workload{{Name: "clinic", ID: id}}
	for _, tt := range []struct {
		name string
		cfg  devauthority.Config // Dir is set by the test if nil
		want string
	}{
		{"no folder", devauthority.Config{Workloads: one}, "no folder"},
		{"no workloads", devauthority.Config{Dir: "d"}, "no workloads"},
		{"negative TTL", devauthority.Config{Dir: "d", Workloads: one, TTL: -1}, "negative"},
		{"negative TTL of tokens", devauthority.Config{Dir: "d", Workloads: one, JWTTTL: -1}, "negative"},
		{"federation with nobody", devauthority.Config{Dir: "d", Workloads: []devauthority.Workload{{Name: "x", ID: id, FederatesWith: make([]spiffeid.TrustDomain, 1)}}}, "without a name"},
		{"name with a path", devauthority.Config{Dir: "d", Workloads: []devauthority.Workload{{Name: "../x", ID: id}}}, `"../x"`},
		{"name twice", devauthority.Config{Dir: "d", Workloads: append(one, one...)}, "named twice"},
		{"ID without path", devauthority.Config{Dir: "d", Workloads: []devauthority.Workload{{Name: "x", ID: home.ID()}}}, "names a trust domain"},
		{"long path", devauthority.Config{Dir: strings.Repeat("d", 100), Workloads: one}, "shorter path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(shortDir(t))
			if _, err := devauthority.Start(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("file in the way", func(t *testing.T) {
		dir := shortDir(t)
		path := filepath.Join(dir, "workloads", "clinic.sock")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := devauthority.Start(devauthority.Config{Dir: dir, Workloads: one}); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("error %v", err)
		}
		if got, _ := os.ReadFile(path); string(got) != "precious" {
			t.Error("the file is gone")
		}
	})
}
