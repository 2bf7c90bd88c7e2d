package svidfiles_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/svidfiles"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := roles[role](os.Getenv(dirEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is the main of a child process
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// A test that needs a process of its own runs this binary again, with a role.
const (
	roleEnv = "SVIDFILES_TEST_ROLE"
	dirEnv  = "SVIDFILES_TEST_DIR"
)

var roles = map[string]func(dir string) error{
	"write for ever": writeForEver,
	"full disk":      fullDisk,
}

// set is one update of a Workload API.
type set struct {
	svid    *x509svid.SVID
	bundles *x509bundle.Set
}

// sets makes n updates, each with a CA of its own, so that no part of one fits
// another.
func sets(tb testing.TB, n int) (all []set) {
	for range n {
		ca := identitytest.NewCA(tb, "sallyport.test")
		all = append(all, set{
			ca.SVID(tb, "/clinic/triage", identitytest.Intermediate()),
			x509bundle.NewSet(ca.Bundle(), identitytest.NewCA(tb, "partner.test").Bundle()),
		})
	}
	return all
}

func open(tb testing.TB, path string) *svidfiles.Dir {
	tb.Helper()
	d, err := svidfiles.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return d
}

func write(tb testing.TB, d *svidfiles.Dir, s set) {
	tb.Helper()
	if err := d.Write(s.svid, s.bundles); err != nil {
		tb.Fatal(err)
	}
}

var home = spiffeid.RequireTrustDomainFromString("sallyport.test")

// read reads the files under one directory as a program would, and fails if they
// do not belong together.
func read(dir string) (*x509svid.SVID, error) {
	svid, err := x509svid.Load(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	bundle, err := x509bundle.Load(home, filepath.Join(dir, "bundle.pem"))
	if err != nil {
		return nil, err
	}
	_, _, err = x509svid.Verify(svid.Certificates, bundle)
	return svid, err
}

// resolved reads through the directory that is the current one now.
func resolved(dir string) (*x509svid.SVID, error) {
	current, err := filepath.EvalSymlinks(filepath.Join(dir, ".current"))
	if err != nil {
		return nil, err
	}
	return read(current)
}

// listing is the names in a directory; those of sets are shortened.
func listing(tb testing.TB, dir string) (names []string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".set-") {
			name = ".set-"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
