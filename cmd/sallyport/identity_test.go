package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sallyport/sallyport/identity/devauthority"
)

// writing is `sallyport identity write` at work in this process.
type writing struct {
	dir    string
	stderr bytes.Buffer // once it has ended
	code   chan int
	stop   context.CancelFunc
}

func writeFiles(t *testing.T, ttl time.Duration, args ...string) *writing {
	t.Helper()
	root := shortTemp(t)
	a, err := devauthority.Start(devauthority.Config{Dir: root, Workloads: devauthority.DefaultWorkloads(), TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	w := &writing{dir: filepath.Join(root, "certs"), code: make(chan int, 1), stop: cancel}
	args = append([]string{"identity", "write", "--socket", a.Socket("clinic"), "--dir", w.dir}, args...)
	go func() { w.code <- run(ctx, args, strings.NewReader(""), &w.stderr, &w.stderr) }()
	return w
}

// end asks it to stop and demands that it does, soon and in order.
func (w *writing) end(t *testing.T) {
	t.Helper()
	w.stop()
	select {
	case code := <-w.code:
		if code != 0 {
			t.Errorf("exit code %d; it wrote:\n%s", code, &w.stderr)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func content(path string) string {
	got, _ := os.ReadFile(path)
	return string(got)
}

func TestIdentityWriteFollowsRotation(t *testing.T) {
	calls := filepath.Join(t.TempDir(), "calls")
	// The program fails, and is called each time nevertheless.
	w := writeFiles(t, 2*time.Second, "--exec", "sh", "--", "-c", `echo called >>"$0"; exit 3`, calls)
	soon(t, "first files", func() bool { _, err := os.Stat(filepath.Join(w.dir, "svid.pem")); return err == nil })
	load := func() *x509svid.SVID {
		current, err := filepath.EvalSymlinks(filepath.Join(w.dir, ".current"))
		if err != nil {
			t.Fatal(err)
		}
		svid, err := x509svid.Load(filepath.Join(current, "svid.pem"), filepath.Join(current, "key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return svid
	}
	first := load()
	soon(t, "second SVID", func() bool { return !load().Certificates[0].Equal(first.Certificates[0]) })
	soon(t, "third call", func() bool { return strings.Count(content(calls), "called") >= 3 })
	w.end(t)
	if n := strings.Count(w.stderr.String(), "what should follow did not succeed"); n < 2 || !strings.Contains(w.stderr.String(), "exit status 3") {
		t.Errorf("%d failures told:\n%s", n, &w.stderr)
	}
	if strings.Contains(w.stderr.String(), "PRIVATE KEY") {
		t.Error("the log has a key")
	}
}

func TestIdentityWriteSignals(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	received := make(chan os.Signal, 16)
	signal.Notify(received, syscall.SIGUSR1)
	defer signal.Stop(received)
	w := writeFiles(t, 2*time.Second, "--signal", "USR1", "--pid-file", pidFile)
	for range 2 {
		select {
		case <-received:
		case <-time.After(10 * time.Second):
			t.Fatal("no signal")
		}
	}
	w.end(t)
}

func TestPidFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	h := hook{signal: "HUP", pidFile: path}
	// 0, 1 and negative ones are groups, everybody or init.
	for _, content := range []string{"", "x", "0", "1", "-1", "-" + strconv.Itoa(os.Getpid()), "12 13"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.send(); err == nil || !strings.Contains(err.Error(), "no process id") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestExecIsBounded: the program and what it has started end with its time, or
// when the command is asked to stop, also if they do not want to.
func TestExecIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		stop         bool
	}{
		{"too long", `sleep 60 & echo $! >"$0"; wait`, false},
		{"with ears closed", `trap "" TERM; (trap "" TERM; exec sleep 60) & echo $! >"$0"; wait; sleep 60`, false},
		{"asked to stop", `sleep 60 & echo $! >"$0"; wait`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pidFile := filepath.Join(t.TempDir(), "pid")
			h := hook{program: "sh", args: []string{"-c", tt.script, pidFile}, timeout: 500 * time.Millisecond}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.stop {
				h.timeout = time.Minute
				go func() {
					for content(pidFile) == "" && ctx.Err() == nil {
						time.Sleep(time.Millisecond)
					}
					cancel()
				}()
			}
			started := time.Now()
			err := h.run(ctx, new(bytes.Buffer))
			if err == nil || errors.Is(err, context.Canceled) != tt.stop {
				t.Errorf("error %v", err)
			}
			if took := time.Since(started); took > 8*time.Second {
				t.Errorf("it took %v", took)
			}
			child, err := strconv.Atoi(strings.TrimSpace(content(pidFile)))
			if err != nil {
				t.Fatal(err)
			}
			soon(t, "the child ends", func() bool { return dead(child) })
		})
	}
}

// dead tells whether a process has ended, reaped or not.
func dead(pid int) bool {
	stat := content("/proc/" + strconv.Itoa(pid) + "/stat")
	return stat == "" || strings.Contains(stat, ") Z ")
}
