package peers

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"text/template"

	"github.com/sallyport/sallyport/bench/peers/contract"
	"github.com/sallyport/sallyport/bench/process"
	"github.com/sallyport/sallyport/bench/target"
)

// Envoy is what envoy.yaml is filled in with.
type Envoy struct {
	// Port is where callers come, AdminPort where Envoy is asked whether it is
	// ready, UpstreamPort where the model server listens.
	Port, AdminPort, UpstreamPort int
	// Files is a directory with SVID, key and bundle, Log the access log.
	Files, Log string
	// TrustDomain is that of the callers. Callers may call the models beside them.
	TrustDomain string
	Callers     []EnvoyCaller
}

// EnvoyCaller is who may call what.
type EnvoyCaller struct {
	// Name names the policy.
	Name   string
	ID     string
	Models []string
}

// Render fills in the template of a file.
func (e Envoy) Render(file string, to io.Writer) error {
	t, err := template.ParseFiles(file)
	if err != nil {
		return err
	}
	return t.Option("missingkey=error").Execute(to, e)
}

// startEnvoy starts Envoy and, behind it, a model server in plaintext on loopback.
func startEnvoy(ctx context.Context, cfg Config, site *target.Site, models map[string]contract.Model, dir, files string) (*peer, error) {
	p := &peer{name: nameEnvoy}
	binary, err := cfg.envoy()
	if err != nil {
		return p, err
	}
	specs := filepath.Join(dir, "models.json")
	if err := writeJSON(specs, models); err != nil {
		return p, err
	}
	self := site.Binaries()
	if err := p.start(ctx, process.Config{
		Path: self.Bench, Args: []string{"model-server", "--models", specs, "--library", self.Library},
		Ready: regexp.MustCompile(`ready 127\.0\.0\.1:(\d+)`),
	}); err != nil {
		return p, err
	}
	upstream, err := strconv.Atoi(p.processes[0].Matches[1])
	if err != nil {
		return p, err
	}
	ports, err := freePorts(ctx, 2)
	if err != nil {
		return p, err
	}
	filled := filepath.Join(dir, "envoy.yaml")
	f, err := os.Create(filled) //nolint:gosec // in the site
	if err != nil {
		return p, err
	}
	defer func() { _ = f.Close() }()
	if err := (Envoy{
		Port: ports[0], AdminPort: ports[1], UpstreamPort: upstream,
		Files: files, Log: filepath.Join(dir, "access.log"), TrustDomain: target.TrustDomain.Name(),
		Callers: []EnvoyCaller{
			{"bench", target.Caller(0).String(), []string{first, second}},
			{"narrow", target.Caller(1).String(), []string{first}},
		},
	}).Render(cfg.source("envoy/envoy.yaml"), f); err != nil {
		return p, err
	}
	if err := p.start(ctx, process.Config{
		Path: binary,
		// As many workers as cores; no shared memory, for others may run here.
		Args: []string{"--config-path", filled, "--concurrency", strconv.Itoa(cfg.Cores), "--log-level", "warning", "--disable-hot-restart"},
		Probe: func(ctx context.Context) error {
			return get(ctx, fmt.Sprintf("http://127.0.0.1:%d/ready", ports[1]))
		},
	}); err != nil {
		return p, err
	}
	return p, nativePeer(p, site, fmt.Sprintf("127.0.0.1:%d", ports[0]))
}

func get(ctx context.Context, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return statusError(answer.StatusCode)
	}
	return nil
}

// identityFiles has sallyport write the server's SVID, key and bundle for servers
// that read files, as it does for any.
func identityFiles(ctx context.Context, site *target.Site, dir string) error {
	out, err := exec.CommandContext(ctx, site.Binaries().Sallyport, "identity", "write", //nolint:gosec // the binary that is measured
		"--once", "--socket", site.ServerSocket(), "--dir", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("sallyport identity write: %w: %s", err, out)
	}
	return nil
}
