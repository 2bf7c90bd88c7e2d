//go:build spire && linux

package main_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spireDir is where `make test-spire` builds spire-server and spire-agent.
const spireDir = "../../build/spire"

// trustDomain is a SPIRE server with one agent.
type trustDomain struct {
	name   string
	dir    string
	port   int
	server *program
	agent  *program
}

// serverConf and agentConf are SPIRE's own, with the two intervals shortened at
// which a change reaches a workload: 5 s each unless set. The binary of a
// workload is not hashed, which would take time.
const (
	serverConf = `
server {
    bind_address = "127.0.0.1"
    bind_port = %[3]d
    trust_domain = %[1]q
    data_dir = "%[2]s/server"
    socket_path = "%[2]s/server.sock"
    experimental { cache_reload_interval = "1s" }
}
plugins {
    DataStore "sql" { plugin_data { database_type = "sqlite3", connection_string = "%[2]s/server/datastore.sqlite3" } }
    NodeAttestor "join_token" { plugin_data {} }
    KeyManager "disk" { plugin_data { keys_path = "%[2]s/server/keys.json" } }
}
`
	agentConf = `
agent {
    trust_domain = %[1]q
    server_address = "127.0.0.1"
    server_port = %[3]d
    data_dir = "%[2]s/agent"
    socket_path = "%[2]s/agent.sock"
    trust_bundle_path = "%[2]s/bootstrap.pem"
    experimental { sync_interval = "1s" }
}
plugins {
    NodeAttestor "join_token" { plugin_data {} }
    KeyManager "disk" { plugin_data { directory = "%[2]s/agent" } }
    WorkloadAttestor "unix" { plugin_data { discover_workload_path = true, workload_size_limit = -1 } }
}
`
)

// startDomain starts server and agent until the test ends.
func startDomain(t *testing.T, dir, name string) *trustDomain {
	t.Helper()
	d := &trustDomain{name: name, dir: filepath.Join(dir, strings.TrimSuffix(name, ".test")), port: freePort(t)}
	for _, sub := range []string{"server", "agent"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, d.dir+"/server.conf", fmt.Sprintf(serverConf, d.name, d.dir, d.port))
	write(t, d.dir+"/agent.conf", fmt.Sprintf(agentConf, d.name, d.dir, d.port))

	d.server = startProgram(t, spireDir+"/spire-server", "run", "-config", d.dir+"/server.conf")
	d.healthy(t, d.server, "spire-server", "server.sock")
	write(t, d.dir+"/bootstrap.pem", d.ctl(t, "bundle", "show"))
	found := regexp.MustCompile(`Token: (\S+)`).FindStringSubmatch(d.ctl(t, "token", "generate", "-spiffeID", d.id("node")))
	if found == nil {
		t.Fatal("spire-server token generate printed no token")
	}
	d.startAgent(t, "-joinToken", found[1])
	return d
}

// startAgent starts the agent. It needs a join token the first time only: then
// its identity is in its data directory.
func (d *trustDomain) startAgent(t *testing.T, args ...string) {
	t.Helper()
	d.agent = startProgram(t, spireDir+"/spire-agent", append([]string{"run", "-config", d.dir + "/agent.conf"}, args...)...)
	d.healthy(t, d.agent, "spire-agent", "agent.sock")
}

// healthy waits until the process says so.
func (d *trustDomain) healthy(t *testing.T, p *program, binary, socket string) {
	t.Helper()
	err := within(patience, func() error {
		select {
		case <-p.ended:
			return errEnded
		default:
		}
		_, err := d.run(binary, "healthcheck", "-socketPath", d.dir+"/"+socket)
		return err
	})
	if err != nil {
		t.Fatalf("%s of %s: %v; it wrote:\n%s", binary, d.name, err, p.stderr)
	}
}

// id is the SPIFFE ID with the path.
func (d *trustDomain) id(path string) string { return "spiffe://" + d.name + "/" + path }

// socket is that of the Workload API.
func (d *trustDomain) socket() string { return d.dir + "/agent.sock" }

// ctl is spire-server's command line, which must succeed.
func (d *trustDomain) ctl(t *testing.T, args ...string) string {
	t.Helper()
	args = append(args, "-socketPath", d.dir+"/server.sock")
	out, err := d.run("spire-server", args...)
	if err != nil {
		t.Fatalf("spire-server %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (d *trustDomain) run(binary string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, spireDir+"/"+binary, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return string(out), nil
}

var entryID = regexp.MustCompile(`(?m)^Entry ID +: (\S+)$`)

// register makes the binary the workload with the path, and returns the entry.
func (d *trustDomain) register(t *testing.T, path, binary string, args ...string) string {
	t.Helper()
	out := d.ctl(t, append([]string{
		"entry", "create", "-parentID", d.id("node"), "-spiffeID", d.id(path), "-selector", "unix:path:" + binary,
	}, args...)...)
	found := entryID.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("spire-server entry create printed no id:\n%s", out)
	}
	return found[1]
}

// trust gives d the bundle of other.
func (d *trustDomain) trust(t *testing.T, other *trustDomain) {
	t.Helper()
	path := filepath.Join(d.dir, other.name+".json")
	write(t, path, other.ctl(t, "bundle", "show", "-format", "spiffe"))
	d.ctl(t, "bundle", "set", "-format", "spiffe", "-id", "spiffe://"+other.name, "-path", path)
}

// program is a process that runs until the test ends.
type program struct {
	cmd            *exec.Cmd
	stdout, stderr *transcript
	ended          chan struct{} // closed when the process has ended
}

// startProgram runs a program. What it writes is shown if the test fails.
func startProgram(t *testing.T, name string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(name, args...), stdout: newTranscript(), stderr: newTranscript(), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.start(t)
	return p
}

// start starts the command of p, which ends with this process at the latest.
func (p *program) start(t *testing.T) {
	t.Helper()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%v: run make test-spire, which builds it", err)
		}
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has it
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s wrote:\n%s%s", strings.Join(p.cmd.Args, " "), tail(p.stdout.String()), tail(p.stderr.String()))
		}
	})
}

func (p *program) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// tail is the end of a long text.
func tail(text string) string {
	const most = 4000
	if len(text) > most {
		return "…" + text[len(text)-most:]
	}
	return text
}

// freePort is a port that nobody listens on, until somebody takes it.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// since is how long it took from then, for people.
func since(then time.Time) time.Duration { return time.Since(then).Round(10 * time.Millisecond) }
