package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// TestDev runs the transcripts in testdata/e2e: `sallyport dev` and what people
// do with it.
func TestDev(t *testing.T) {
	library := onnxtest.Library(t)
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/e2e",
		WorkdirRoot:         shortDir(t),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values["servers"] = map[string]*server{}
			env.Setenv(onnx.LibraryEnv, library)
			env.Setenv("EXAMPLES", examples)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else the race detector takes a second at each exit
			env.Setenv("SALLYPORT_SERVER", "")
			env.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"up":      up,
			"down":    down,
			"get":     get,
			"modes":   modes,
			"exits":   exits,
			"becomes": becomes,
			"shows":   shows,
		},
	})
}

func need(ts *testscript.TestScript, neg bool, ok bool, usage string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

func running(ts *testscript.TestScript, dir string) *server {
	s := ts.Value("servers").(map[string]*server)[ts.MkAbs(dir)]
	if s == nil {
		ts.Fatalf("no server on %s", dir)
	}
	return s
}

// up DIR starts `sallyport dev` on DIR and makes it the server that clients call.
func up(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 1, "up DIR")
	dir := ts.MkAbs(args[0])
	s, err := launch(dir, ts.Getenv(onnx.LibraryEnv), "dev", "--dir", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(s.kill)
	ts.Value("servers").(map[string]*server)[dir] = s
	ts.Setenv("SALLYPORT_SERVER", s.address)
}

// down DIR TERM|INT|KILL ends the server on DIR. Unless it was killed it must
// have ended in order, soon, and have written its address and nothing else. What
// it wrote as its log is then in DIR.log.
func down(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "down DIR TERM|INT|KILL")
	s := running(ts, args[0])
	switch args[1] {
	case "KILL":
		s.kill()
	case "TERM", "INT":
		signal := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": os.Interrupt}[args[1]]
		ts.Check(s.stop(signal))
	}
	ts.Check(os.WriteFile(s.dir+".log", []byte(s.stderr.String()), 0o600))
}

// get DIR PATH CODE asks the operator's listener of the server on DIR.
func get(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 3, "get DIR PATH CODE")
	code, body, err := running(ts, args[0]).get(context.Background(), args[1])
	ts.Check(err)
	_, err = io.WriteString(ts.Stdout(), body)
	ts.Check(err)
	if strconv.Itoa(code) != args[2] {
		ts.Fatalf("GET %s: %d, want %s", args[1], code, args[2])
	}
}

// modes MODE FILE… demands the permissions of files, in octal.
func modes(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "modes MODE FILE…")
	for _, name := range args[1:] {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := fmt.Sprintf("%#o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}

// exitCode is that of a program that was run.
func exitCode(ts *testscript.TestScript, err error) string {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return strconv.Itoa(exit.ExitCode())
	}
	ts.Check(err)
	return "0"
}

// exits CODE PROGRAM [ARG…] demands the exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "exits CODE PROGRAM [ARG…]")
	if got := exitCode(ts, ts.Exec(args[1], args[2:]...)); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// becomes CODE PROGRAM [ARG…] runs it until it has the exit code.
func becomes(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "becomes CODE PROGRAM [ARG…]")
	repeat(ts, args[1:], func(code, stdout string) bool { return code == args[0] })
}

// shows REGEXP PROGRAM [ARG…] runs it until its standard output matches.
func shows(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "shows REGEXP PROGRAM [ARG…]")
	want, err := regexp.Compile(`(?m)` + args[0])
	ts.Check(err)
	repeat(ts, args[1:], func(code, stdout string) bool { return code == "0" && want.MatchString(stdout) })
}

// repeat runs a program until what came of it is as it should be. Only the last
// run is shown.
func repeat(ts *testscript.TestScript, args []string, good func(code, stdout string) bool) {
	var stdout, stderr bytes.Buffer
	err := within(patience, func() error {
		stdout.Reset()
		stderr.Reset()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), &stdout, &stderr
		for _, name := range []string{"PATH", "HOME", "GORACE", "SALLYPORT_SERVER"} {
			cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
		}
		code := exitCode(ts, cmd.Run())
		if !good(code, stdout.String()) {
			return fmt.Errorf("exit code %s; it wrote:\n%s%s", code, &stdout, &stderr)
		}
		return nil
	})
	ts.Check(err)
	_, _ = stdout.WriteTo(ts.Stdout())
	_, _ = stderr.WriteTo(ts.Stderr())
}
