package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/identity/devauthority"
)

func TestMain(m *testing.M) {
	testscript.Main(leakFree{m}, map[string]func(){"sallyport": main})
}

// leakFree runs the tests and fails if goroutines are left.
type leakFree struct{ tests *testing.M }

func (l leakFree) Run() int {
	code := l.tests.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScripts runs the transcripts in testdata against the real binary. With
// UPDATE_GOLDEN set, what they compare with becomes what was printed.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		WorkdirRoot:         shortTemp(t),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("SALLYPORT_SERVER", "")
			env.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// auditlog DIR: write an audit log, the same bytes every time.
			"auditlog": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(appendLog(ts.MkAbs(args[0]), sampleRecords()...))
			},
			// unusuallog DIR: write an audit log in which audit report finds much.
			"unusuallog": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(appendLog(ts.MkAbs(args[0]), unusualRecords()...))
			},
			// calllog DIR POLICY: write an audit log of calls that the policy decided on.
			"calllog": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(appendLog(ts.MkAbs(args[0]), decidedCalls(ts.ReadFile(args[1]))...))
			},
			// authority DIR: start a development authority until the script ends.
			"authority": func(ts *testscript.TestScript, _ bool, args []string) {
				a, err := devauthority.Start(devauthority.Config{Dir: ts.MkAbs(args[0]), Workloads: devauthority.DefaultWorkloads()})
				ts.Check(err)
				ts.Defer(func() { ts.Check(a.Close()) })
			},
			// exits CODE COMMAND...: run a command that must end with the code.
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				code := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					var exit *exec.ExitError
					if !errors.As(err, &exit) {
						ts.Fatalf("%v", err)
					}
					code = exit.ExitCode()
				}
				if got := strconv.Itoa(code); got != args[0] {
					ts.Fatalf("exit code %s, want %s", got, args[0])
				}
			},
			// flip FILE: change one bit in the middle of a file.
			"flip": func(ts *testscript.TestScript, _ bool, args []string) {
				name := ts.MkAbs(args[0])
				data, err := os.ReadFile(name)
				ts.Check(err)
				data[len(data)/2] ^= 1
				ts.Check(os.WriteFile(name, data, 0o600))
			},
		},
	})
}

// shortTemp is a temporary folder in whose path a unix socket's name fits.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
