package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hook is what follows a replacement: a program, a signal, both or nothing.
type hook struct {
	program string
	args    []string
	timeout time.Duration
	signal  string // as in signals
	pidFile string
}

// serverSignals are those that programs take as a word to read their files again, or
// to end.
var signals = map[string]syscall.Signal{
	"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "WINCH": syscall.SIGWINCH,
}

func signalNames() []string { return slices.Sorted(maps.Keys(signals)) }

func (h *hook) wanted() bool { return h.program != "" || h.signal != "" }

func (h *hook) check() error {
	var errs []error
	if h.program == "" && len(h.args) > 0 {
		errs = append(errs, errors.New("arguments, but no program to run: give --exec PROGRAM"))
	}
	if h.program != "" {
		if _, err := exec.LookPath(h.program); err != nil {
			errs = append(errs, fmt.Errorf("--exec: %w", err))
		}
	}
	if h.timeout <= 0 {
		errs = append(errs, fmt.Errorf("--exec-timeout %v: must be more than 0", h.timeout))
	}
	if (h.signal == "") != (h.pidFile == "") {
		errs = append(errs, errors.New("--signal and --pid-file go together"))
	}
	return errors.Join(errs...)
}

// run does it. It ends within the timeout, or soon after ctx does, and takes a
// moment more for a program that has to be killed. What the program prints goes
// to output.
func (h *hook) run(ctx context.Context, output io.Writer) error {
	var errs []error
	if h.program != "" {
		errs = append(errs, h.exec(ctx, output))
	}
	if h.signal != "" {
		errs = append(errs, h.send())
	}
	return errors.Join(errs...)
}

// endPatience is what a program that is asked to end has left to do so.
const endPatience = 2 * time.Second

func (h *hook) exec(ctx context.Context, output io.Writer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("ended after %v", h.timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program, h.args...) //nolint:gosec // it is the user's own
	cmd.Stdout, cmd.Stderr = output, output
	// The program and those it starts are one group, so that all of it ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = endPatience
	err := cmd.Run()
	if ctx.Err() != nil && cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what of the group is left
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		return fmt.Errorf("--exec %s: %w", h.program, err)
	}
	return nil
}

// send sends the signal to the process in the file.
func (h *hook) send() error {
	content, err := os.ReadFile(h.pidFile)
	if err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("--pid-file %s: no process id in it", h.pidFile)
	}
	if err := syscall.Kill(pid, signals[h.signal]); err != nil {
		return fmt.Errorf("--signal %s to process %d: %w", h.signal, pid, err)
	}
	return nil
}
