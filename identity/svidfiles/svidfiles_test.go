package svidfiles_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/svidfiles"
)

func TestWrite(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		before := syscall.Umask(umask)
		dir := filepath.Join(t.TempDir(), "certs")
		_ = os.Mkdir(filepath.Dir(dir), 0o700)
		if err := os.Chmod(filepath.Dir(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		d := open(t, dir)
		s := sets(t, 1)[0]
		write(t, d, s)
		syscall.Umask(before)

		got, err := read(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Certificates) != 2 || !got.Certificates[0].Equal(s.svid.Certificates[0]) {
			t.Error("another SVID")
		}
		partner := spiffeid.RequireTrustDomainFromString("partner.test")
		bundle, err := x509bundle.Load(partner, filepath.Join(dir, "bundle.partner.test.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := s.bundles.Get(partner); !bundle.Equal(want) {
			t.Error("another federated bundle")
		}
		want := []string{".current", ".lock", ".set-", "bundle.partner.test.pem", "bundle.pem", "key.pem", "svid.pem"}
		if diff := cmp.Diff(want, listing(t, dir)); diff != "" {
			t.Error(diff)
		}
		for name, mode := range map[string]fs.FileMode{
			".": 0o755, ".current": 0o755, ".lock": 0o600 &^ fs.FileMode(umask),
			"svid.pem": 0o644, "key.pem": 0o600, "bundle.pem": 0o644, "bundle.partner.test.pem": 0o644,
		} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != mode {
				t.Errorf("umask %#o: %s has mode %#o, want %#o", umask, name, got, mode)
			}
		}
		pem, err := os.ReadFile(filepath.Join(dir, "key.pem"))
		if err != nil || !strings.HasPrefix(string(pem), "-----BEGIN PRIVATE KEY-----\n") {
			t.Errorf("not PKCS #8: %v", err)
		}
	}
}

func TestFederatedBundleLeaves(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	with := sets(t, 1)[0]
	own, _ := with.bundles.Get(home)
	without := set{with.svid, x509bundle.NewSet(own)}
	for _, s := range []set{with, without, with} {
		write(t, d, s)
		if got := exists(filepath.Join(dir, "bundle.partner.test.pem")); got != (s.bundles.Len() == 2) {
			t.Errorf("with %d bundles: %v", s.bundles.Len(), listing(t, dir))
		}
	}
}

func TestPermissionsStay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("not root: the group is not looked at")
	}
	dir := t.TempDir()
	d := open(t, dir)
	s := sets(t, 3)
	write(t, d, s[0])
	key := filepath.Join(dir, "key.pem")
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	const gid = 4711
	if os.Getuid() == 0 {
		if err := os.Chown(key, -1, gid); err != nil {
			t.Fatal(err)
		}
	}
	write(t, d, s[1])
	write(t, d, s[2])
	info, err := os.Stat(key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o640 {
		t.Errorf("mode %#o", info.Mode().Perm())
	}
	if got := info.Sys().(*syscall.Stat_t).Gid; os.Getuid() == 0 && got != gid {
		t.Errorf("group %d", got)
	}
}

// TestResolvedReaderHasTime: who has resolved the directory finds the files
// there over one replacement, and no key stays longer.
func TestResolvedReaderHasTime(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	s := sets(t, 3)
	write(t, d, s[0])
	first, err := filepath.EvalSymlinks(filepath.Join(dir, ".current"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, d, s[1])
	if svid, err := read(first); err != nil || !svid.Certificates[0].Equal(s[0].svid.Certificates[0]) {
		t.Errorf("after one replacement: %v", err)
	}
	write(t, d, s[2])
	if exists(first) {
		t.Error("after two replacements it is still there")
	}
}

func TestOpenRefuses(t *testing.T) {
	file := func(name string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte("precious"), 0o600) }
	}
	link := func(name, target string) func(string) error {
		return func(dir string) error { return os.Symlink(target, filepath.Join(dir, name)) }
	}
	for _, tt := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"a file named like the SVID", file("svid.pem"), "svid.pem is in the way"},
		{"a file named like the key", file("key.pem"), "key.pem is in the way"},
		{"a file named like a bundle", file("bundle.example.org.pem"), "bundle.example.org.pem is in the way"},
		{"a link to elsewhere", link("key.pem", "/etc/shadow"), "key.pem is in the way"},
		{"a current set elsewhere", link(".current", "/tmp"), ".current is in the way"},
		{"a current set above", link(".current", ".set-1/../.."), ".current is in the way"},
		{"a directory named like the current set", func(dir string) error { return os.Mkdir(filepath.Join(dir, ".current"), 0o700) }, ".current is in the way"},
		{"a file named like a set", file(".set-1"), ".set-1 is in the way"},
		{"a lock that is a link", link(".lock", "/tmp/other"), ".lock is in the way"},
		{"everybody can write", func(dir string) error { return os.Chmod(dir, 0o777) }, "everybody could replace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			before := listing(t, dir)
			if _, err := svidfiles.Open(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if diff := cmp.Diff(before, listing(t, dir)); diff != "" {
				t.Errorf("the directory was changed: %s", diff)
			}
		})
	}
	t.Run("a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := svidfiles.Open(path); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no parent", func(t *testing.T) {
		if _, err := svidfiles.Open(filepath.Join(t.TempDir(), "a", "b")); err == nil {
			t.Error("no error")
		}
	})
	t.Run("another process has it", func(t *testing.T) {
		dir := t.TempDir()
		d := open(t, dir)
		if _, err := svidfiles.Open(dir); err == nil || !strings.Contains(err.Error(), "kept by another process") {
			t.Errorf("error %v", err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		open(t, dir)
	})
}

// TestNeighboursStay: other files in the directory are nobody's business.
func TestNeighboursStay(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ca.pem", "nginx.conf", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(t, open(t, dir), sets(t, 1)[0])
	for _, name := range []string{"ca.pem", "nginx.conf", ".hidden"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != "precious" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	ca := identitytest.NewCA(t, "sallyport.test")
	if err := d.Write(ca.SVID(t, "/clinic"), x509bundle.NewSet()); err == nil || !strings.Contains(err.Error(), "no bundle of its trust domain") {
		t.Errorf("without its bundle: %v", err)
	}
	// What comes to lie in the way later is not overwritten.
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := sets(t, 1)[0]
	if err := d.Write(s.svid, s.bundles); err == nil || !strings.Contains(err.Error(), "key.pem") {
		t.Errorf("error %v", err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "key.pem")); string(got) != "precious" {
		t.Error("the file is gone")
	}
}

// TestNameTaken: a name that somebody takes while the directory is kept stops the
// replacement before anybody sees it, leaves nothing behind and is not touched.
func TestNameTaken(t *testing.T) {
	const partner = "bundle.partner.test.pem"
	file := func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) }
	dangling := func(path string) error { return os.Symlink("/nowhere/at/all", path) }
	for _, tt := range []struct {
		name  string
		taken string
		first bool // whether nothing has been written before
		take  func(path string) error
	}{
		{name: "the SVID by a file", taken: "svid.pem", take: file},
		{name: "the key by a file", taken: "key.pem", take: file},
		{name: "the key by a link to nowhere", taken: "key.pem", take: dangling},
		{name: "a bundle that arrives by a file", taken: partner, take: file},
		{name: "a bundle that arrives by a link to nowhere", taken: partner, take: dangling},
		{name: "a bundle before the first", taken: partner, first: true, take: file},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			d := open(t, dir)
			all := sets(t, 3)
			own, _ := all[0].bundles.Get(home)
			all[0].bundles = x509bundle.NewSet(own) // partner.test comes with the second
			if !tt.first {
				write(t, d, all[0])
			}
			path := filepath.Join(dir, tt.taken)
			_ = os.Remove(path)
			if err := tt.take(path); err != nil {
				t.Fatal(err)
			}
			before := listing(t, dir)
			for range 4 {
				if err := d.Write(all[1].svid, all[1].bundles); err == nil || !strings.Contains(err.Error(), tt.taken) {
					t.Fatalf("error %v", err)
				}
			}
			if diff := cmp.Diff(before, listing(t, dir)); diff != "" {
				t.Errorf("something is left behind: %s", diff)
			}
			if target, err := os.Readlink(path); err == nil && target != "/nowhere/at/all" {
				t.Errorf("what was in the way is now a link to %s", target)
			}
			if tt.first {
				if exists(filepath.Join(dir, ".current")) {
					t.Error("there is a current set")
				}
			} else if svid, err := resolved(dir); err != nil || !svid.Certificates[0].Equal(all[0].svid.Certificates[0]) {
				t.Errorf("the set before is not in place: %v", err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			write(t, d, all[2])
			if svid, err := read(dir); err != nil || !svid.Certificates[0].Equal(all[2].svid.Certificates[0]) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}
