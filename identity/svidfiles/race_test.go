package svidfiles_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/sallyport/sallyport/identity/svidfiles"
)

// memoryDir is a directory where an fsync costs nothing, if the system has one.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "svidfiles")
	if err != nil {
		t.Logf("on a disk, this takes minutes: %v", err)
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestReadersRace: whatever a reader finds under a directory that it has resolved
// belongs together.
func TestReadersRace(t *testing.T) {
	const swaps = 3000
	dir := memoryDir(t)
	d := open(t, dir)
	all := sets(t, 8)
	write(t, d, all[0])
	var (
		done    atomic.Bool
		good    atomic.Int64
		gone    atomic.Int64 // the reader was slower than two swaps
		readers sync.WaitGroup
	)
	for range 2 {
		readers.Go(func() {
			for !done.Load() {
				switch _, err := resolved(dir); {
				case err == nil:
					good.Add(1)
				case strings.Contains(err.Error(), "no such file"): // go-spiffe does not wrap it
					gone.Add(1)
				default:
					t.Errorf("files that do not belong together: %v", err)
					return
				}
				// The link itself is always there.
				if _, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil && !exists(filepath.Join(dir, ".current")) {
					t.Errorf("no link: %v", err)
				}
			}
		})
	}
	for i := range swaps {
		write(t, d, all[i%len(all)])
	}
	done.Store(true)
	readers.Wait()
	t.Logf("%d swaps, %d good reads, %d of a set that was gone", swaps, good.Load(), gone.Load())
	if good.Load() < 100 {
		t.Errorf("only %d reads", good.Load())
	}
}

// writeForEver is the process that is killed: it replaces what it finds with two
// sets in turn, one with and one without a federated bundle.
func writeForEver(dir string) error {
	tb := new(testing.T)
	all := sets(tb, 2)
	own, _ := all[1].bundles.Get(home)
	all[1].bundles = x509bundle.NewSet(own)
	for {
		// Taken anew each time, so that it is also killed in Open.
		d, err := svidfiles.Open(dir)
		if err != nil {
			return err
		}
		for i := range 4 {
			if err := d.Write(all[i%2].svid, all[i%2].bundles); err != nil {
				return err
			}
		}
		if err := d.Close(); err != nil {
			return err
		}
	}
}

func TestKilledAnywhere(t *testing.T) {
	const kills = 60
	dir := t.TempDir()
	inFlight := 0
	for i := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"=write for ever", dirEnv+"="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30*time.Millisecond + time.Duration(i)*977*time.Microsecond)
		_ = cmd.Process.Kill()
		err := cmd.Wait()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the writer ended by itself: %v", err)
		}
		if !exists(filepath.Join(dir, ".current")) {
			continue // before the first
		}
		if _, err := resolved(dir); err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		if n := strings.Count(strings.Join(listing(t, dir), " "), ".set-"); n > 2 {
			inFlight++
		}
	}
	t.Logf("%d of %d kills left a set behind", inFlight, kills)
	d := open(t, dir)
	if n := strings.Count(strings.Join(listing(t, dir), " "), ".set-"); n != 1 {
		t.Errorf("left-overs: %v", listing(t, dir))
	}
	s := sets(t, 1)[0]
	write(t, d, s)
	if svid, err := read(dir); err != nil || !svid.Certificates[0].Equal(s.svid.Certificates[0]) {
		t.Errorf("afterwards: %v", err)
	}
}

// TestFullDisk runs fullDisk in a mount namespace of its own, which only root or
// a user who may make user namespaces can have.
func TestFullDisk(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=full disk", dirEnv+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) || strings.Contains(string(out), errNoMount.Error()) {
		t.Skipf("this system gives no namespace to mount a small disk in: %v %s", err, out)
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

var errNoMount = errors.New("no disk could be mounted")

func fullDisk(dir string) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		return fmt.Errorf("%w: %w", errNoMount, err)
	}
	all := sets(new(testing.T), 2)
	d, err := svidfiles.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Write(all[0].svid, all[0].bundles); err != nil {
		return err
	}
	unharmed := func(when string) error {
		svid, err := read(dir)
		if err == nil && !svid.Certificates[0].Equal(all[0].svid.Certificates[0]) {
			err = errors.New("another SVID")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
		return nil
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk is not full: %w", err)
	}
	if err := d.Write(all[1].svid, all[1].bundles); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("written to a full disk: %w", err)
	}
	if err := unharmed("full"); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) != 8 {
		return fmt.Errorf("half a set is left: %v", entries)
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=64k"); err != nil {
		return fmt.Errorf("read-only: %w", err)
	}
	if err := d.Write(all[1].svid, all[1].bundles); !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("written to a read-only disk: %w", err)
	}
	if err := unharmed("read-only"); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64k"); err != nil {
		return fmt.Errorf("writable again: %w", err)
	}
	return d.Write(all[1].svid, all[1].bundles)
}
