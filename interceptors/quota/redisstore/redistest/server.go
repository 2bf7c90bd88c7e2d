// Package redistest runs a real Redis or Valkey for tests, and what can happen
// between it and a replica.
package redistest

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Server is a Redis of a test's own, on a loopback port, that keeps every write
// over a restart.
type Server struct {
	// Address is the host and port.
	Address string

	tb   testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// Start runs a server until the test ends. The arguments are added to those of the
// program. It fails the test where there is no such program.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	lis, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{Address: lis.Addr().String(), tb: tb, dir: tb.TempDir()}
	_, port, _ := net.SplitHostPort(s.Address)
	if err := lis.Close(); err != nil {
		tb.Fatal(err)
	}
	s.args = append([]string{
		"--bind", "127.0.0.1", "--port", port, "--dir", s.dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always",
	}, args...)
	s.start()
	tb.Cleanup(s.Stop)
	return s
}

// program is the server that is installed.
func (s *Server) program() string {
	s.tb.Helper()
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	s.tb.Fatal("neither redis-server nor valkey-server is in PATH; on Debian: apt-get install redis-server")
	return ""
}

func (s *Server) start() {
	s.tb.Helper()
	s.cmd = exec.Command(s.program(), s.args...) //nolint:gosec,noctx // a program of this machine, ended by Stop
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	s.done = make(chan struct{})
	ready := make(chan bool, 1)
	go func(cmd *exec.Cmd, done chan struct{}) {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "eady to accept connections") {
				ready <- true
				break
			}
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		close(done)
	}(s.cmd, s.done)
	select {
	case <-ready:
	case <-s.done:
		s.tb.Fatalf("%s ended at once", s.cmd)
	}
}

// Stop ends the server; it may be started again with Restart.
func (s *Server) Stop() {
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.done
}

// Restart ends the server, if it still runs, and starts it with what it kept.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	s.start()
}

// RestartEmpty starts it with nothing.
func (s *Server) RestartEmpty() {
	s.tb.Helper()
	s.Stop()
	kept, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, path := range kept {
		if err := os.RemoveAll(path); err != nil {
			s.tb.Fatal(err)
		}
	}
	s.start()
}

// Hang stops it in its tracks: connections stay, nothing answers, until Resume.
func (s *Server) Hang() {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		s.tb.Fatal(err)
	}
}

// Resume lets it go on.
func (s *Server) Resume() {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		s.tb.Fatal(err)
	}
}
