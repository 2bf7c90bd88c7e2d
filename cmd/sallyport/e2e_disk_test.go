package main_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// disksEnv has TestAuditDisks mount file systems, which `make test-audit` does.
const disksEnv = "SALLYPORT_AUDIT_DISKS"

// disk is a file system that only the processes in a mount namespace of its own
// see, and that is gone when they are.
type disk struct {
	dir   string // where it is mounted, there
	pid   string // of a process that is there
	seen  string // where this process sees what they see
	enter []string
}

// newDisk mounts a disk at dir as a script of commands says, whose $1 it is and $2 a
// directory for an image. Mounting a device takes root; for the rest a user
// namespace will do.
func newDisk(t *testing.T, dir, script string, device bool) *disk {
	t.Helper()
	d := &disk{dir: dir}
	flags, root := []string{"--mount"}, os.Geteuid() == 0
	if !root {
		flags = append(flags, "--user", "--map-root-user")
	}
	if device && !root {
		t.Fatal("this test mounts a block device: run it as root")
	}
	line := append(flags, "sh", "-ec", "mkdir \"$1\" \"$2\"\n"+script+"\necho ready\ncat", "disk", dir, dir+"-image")
	holder := exec.Command("unshare", line...)
	holder.Stderr = os.Stderr
	in, err := holder.StdinPipe()
	must(t, err)
	out, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	t.Cleanup(func() {
		_ = in.Close() // it ends then
		_ = holder.Wait()
	})
	if said, err := bufio.NewReader(out).ReadString('\n'); said != "ready\n" {
		t.Fatalf("this machine does not let a test mount a file system (%q, %v): it takes unshare and mount of util-linux, and root or user namespaces", said, err)
	}
	d.pid = strconv.Itoa(holder.Process.Pid)
	d.seen = "/proc/" + d.pid + "/root"
	d.enter = []string{"nsenter", "--target", d.pid, "--mount"}
	if !root {
		d.enter = append(d.enter, "--user", "--preserve-credentials")
	}
	return d
}

// run runs a command where the disk is.
func (d *disk) run(t *testing.T, line ...string) {
	t.Helper()
	line = append(d.enter[:len(d.enter):len(d.enter)], line...)
	if out, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(line, " "), err, out)
	}
}

// fill fills up the file system of a directory with a file.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	for size := 1 << 16; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2 // to the last byte
		} else {
			must(t, err)
		}
	}
}

// Real disks that fill up, are read-only, fail and hang.
func TestAuditDisks(t *testing.T) {
	if os.Getenv(disksEnv) == "" {
		t.Skip("mounts file systems: make test-audit")
	}
	// What the file system needs for itself is written by mkfs, so that only files find
	// no place on a device without space.
	const format = "mkfs.ext4 -q -O ^has_journal -E nodiscard,lazy_itable_init=0 \"$2/image\"\nmount -o loop,errors=continue \"$2/image\" \"$1\""
	const timeout = time.Second // see the configuration below
	for _, tt := range []struct {
		fault
		script string
		device bool
	}{
		{
			fault: fault{
				name:   "full",
				room:   true,
				inject: func(t *testing.T, dir string) { fill(t, dir+"/../filler") },
				cure:   func(t *testing.T, dir string) { must(t, os.Remove(dir+"/../filler")) },
			},
			script: "mount -t tmpfs -o size=24m,mode=0700 none \"$1\"",
		},
		{
			// As after an error of the device, whose copy is put in its place. One that has
			// open files cannot be made read-only by hand, nor this one writable again.
			fault:  fault{name: "read-only, then another disk"},
			script: "truncate -s 64M \"$2/image\"\n" + format, device: true,
		},
		{
			// A device that cannot write what it was given: write returns, fsync fails.
			fault:  fault{name: "device out of space", room: true},
			script: "mount -t tmpfs -o size=24m none \"$2\"\ntruncate -s 64M \"$2/image\"\n" + format, device: true,
		},
		{
			// Writes and fsync do not return.
			fault:  fault{name: "hanging", patience: timeout},
			script: "truncate -s 64M \"$2/image\"\n" + format, device: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := newSite(t, "")
			write(t, dir+"/sallyport.yaml", strings.Replace(config, "  directory: audit\n",
				"  directory: disk/audit\n  segment_bytes: 65536\n  timeout: 1s\n", 1))
			d := newDisk(t, dir+"/disk", tt.script, tt.device)
			s := startAs(t, dir, d.enter, "serve", "--config", dir+"/sallyport.yaml")
			f := tt.fault
			switch tt.name {
			case "read-only, then another disk":
				f.inject = func(t *testing.T, _ string) { d.run(t, "mount", "-o", "remount,abort", d.dir) }
				f.cure = func(t *testing.T, _ string) {
					d.run(t, "umount", "--lazy", d.dir)
					d.run(t, "cp", d.dir+"-image/image", d.dir+"-image/copy")
					d.run(t, "mount", "-o", "loop", d.dir+"-image/copy", d.dir)
				}
			case "device out of space":
				filler := d.seen + d.dir + "-image/filler"
				f.inject = func(t *testing.T, _ string) { fill(t, filler) }
				f.cure = func(t *testing.T, _ string) { must(t, os.Remove(filler)) }
			case "hanging":
				frozen := true
				thaw := func() error {
					frozen = false
					line := append(d.enter[:len(d.enter):len(d.enter)], "fsfreeze", "--unfreeze", d.dir)
					out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
					if err != nil {
						err = fmt.Errorf("%w: %s", err, out)
					}
					return err
				}
				f.inject = func(t *testing.T, _ string) { d.run(t, "fsfreeze", "--freeze", d.dir) }
				f.cure = func(t *testing.T, _ string) { must(t, thaw()) }
				// A process that hangs in it cannot even be killed.
				t.Cleanup(func() {
					if frozen {
						_ = thaw()
					}
				})
			}
			strike(t, s, d.seen+d.dir+"/audit", f)
		})
	}
}
