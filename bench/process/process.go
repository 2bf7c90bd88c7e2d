// Package process runs the servers that are measured as processes of their own
// and reads from /proc what they take.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Config is a server to start.
type Config struct {
	// Path is the program, Args its arguments.
	Path string
	Args []string
	// Env is added to the environment.
	Env []string
	// Dir is its working directory; this process's if empty.
	Dir string
	// Ready is what it writes, on standard output or error, once it serves. If nil,
	// Probe says.
	Ready *regexp.Regexp
	// Probe is asked again and again until it has no error; optional.
	Probe func(ctx context.Context) error
	// Patience is how long it may take to be ready, and to end; a minute if zero.
	Patience time.Duration
}

// Process is a server that runs.
type Process struct {
	// Matches are what Config.Ready found, with its groups.
	Matches []string

	cmd      *exec.Cmd
	output   *transcript
	ended    chan struct{} // closed when it has ended
	patience time.Duration
}

// ErrEnded is that the process ended by itself.
var ErrEnded = errors.New("the process ended")

// Start starts a server and returns once it is ready. The caller stops it. The
// error holds what it wrote.
func Start(ctx context.Context, cfg Config) (_ *Process, err error) {
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	p := &Process{
		cmd:    exec.Command(cfg.Path, cfg.Args...), //nolint:gosec,noctx // Stop ends it, gently
		output: newTranscript(), ended: make(chan struct{}), patience: cfg.Patience,
	}
	p.cmd.Env = append(os.Environ(), cfg.Env...)
	p.cmd.Dir = cfg.Dir
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	// Its children, as of servers that fork, are stopped with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has it
		close(p.ended)
	}()
	defer func() {
		if err != nil {
			p.kill()
			err = fmt.Errorf("%s %s: %w; it wrote:\n%s", cfg.Path, strings.Join(cfg.Args, " "), err, p.Output())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, cfg.Patience)
	defer cancel()
	if cfg.Ready != nil {
		if p.Matches, err = p.output.await(ctx, cfg.Ready, p.ended); err != nil {
			return nil, err
		}
	}
	if cfg.Probe == nil {
		return p, nil
	}
	return p, p.probe(ctx, cfg.Probe)
}

func (p *Process) probe(ctx context.Context, probe func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return ErrEnded
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		}
	}
}

// PID is the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what it wrote, the last megabyte of it.
func (p *Process) Output() string { return p.output.String() }

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Signal sends a signal to the process and its children.
func (p *Process) Signal(s syscall.Signal) error { return syscall.Kill(-p.PID(), s) }

// Stop asks the process to end and waits until it has; what does not end is
// killed. The error is that it did not end well.
func (p *Process) Stop() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s: %w by itself, %v; it wrote:\n%s", p.cmd.Path, ErrEnded, p.cmd.ProcessState, p.Output())
	default:
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(p.patience):
		p.kill()
		return fmt.Errorf("%s: no end within %v", p.cmd.Path, p.patience)
	}
	// Some end by the signal, some with a code.
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && (s.Signaled() && s.Signal() == syscall.SIGTERM || s.ExitStatus() == 0) {
		return nil
	}
	return fmt.Errorf("%s ended with %v; it wrote:\n%s", p.cmd.Path, p.cmd.ProcessState, p.Output())
}

func (p *Process) kill() {
	_ = p.Signal(syscall.SIGKILL) // it may have ended
	<-p.ended
}
