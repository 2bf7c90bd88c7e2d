package target

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/sallyport/sallyport/bench/process"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/server/onnx"
)

// Process is a server that runs.
type Process struct {
	*process.Process
	// Address is where it answers calls, Admin where its metrics are, if it has any.
	Address, Admin string
	// Dir is its own, Audit its log's and Verifier the key that verifies it, if it
	// has one.
	Dir, Audit, Verifier string
}

// Sallyport is how a sallyport server is set up: its zero value has every gate
// on, as an operator has it who changes nothing.
type Sallyport struct {
	// Durability is what an answer waits for; REQUIRED if empty.
	Durability string
	// AuditDir is where the log is; on the disk of the site if empty.
	AuditDir string
	// Policy is the text of the policy; Policy() if empty.
	Policy string
	// Models is the model repository; that of the site if empty.
	Models string
	// Bounds and Runtime are lines of YAML that are put under bounds and runtime.
	Bounds, Runtime string
}

const configuration = `listen: 127.0.0.1:0
identity:
  workload_api: unix:%s
  trust_domains: [%s]
policy: {file: policy.yaml}
models: {directory: %s}
audit:
  directory: %s
  digest_key: {file: digest.key}
  signing_key: {file: signing.key}
  durability: %s
admin: {listen: "127.0.0.1:0"}
bounds: {%s}
runtime: {%s}
`

// StartSallyport starts sallyport and waits until it serves.
func (s *Site) StartSallyport(ctx context.Context, set Sallyport) (*Process, error) {
	p, err := s.newDir()
	if err != nil {
		return nil, err
	}
	p.Audit = cmp.Or(set.AuditDir, filepath.Join(p.Dir, "audit"))
	signing, verifier, err := audit.GenerateKey(TrustDomain.Name() + "/bench")
	if err != nil {
		return nil, err
	}
	p.Verifier = verifier
	digest := make([]byte, audit.KeyBytes)
	_, _ = rand.Read(digest)
	for name, content := range map[string]string{
		"policy.yaml": cmp.Or(set.Policy, Policy()),
		"signing.key": signing + "\n",
		"digest.key":  string(digest),
		"sallyport.yaml": fmt.Sprintf(configuration, s.authority.Socket("server"), TrustDomain.Name(),
			cmp.Or(set.Models, s.Models), p.Audit, cmp.Or(set.Durability, "REQUIRED"), set.Bounds, set.Runtime),
	} {
		if err := os.WriteFile(filepath.Join(p.Dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	p.Process, err = process.Start(ctx, process.Config{
		Path: s.cfg.Sallyport, Args: []string{"serve", "--config", filepath.Join(p.Dir, "sallyport.yaml")},
		Env:   []string{onnx.LibraryEnv + "=" + s.cfg.Library},
		Ready: regexp.MustCompile(`msg=serving address=(\S+) admin=(\S+)`),
	})
	if err != nil {
		return nil, err
	}
	p.Address, p.Admin = p.Matches[1], p.Matches[2]
	return p, nil
}

// StartBare starts the server that has no gates and waits until it serves.
func (s *Site) StartBare(ctx context.Context) (*Process, error) {
	p, err := s.newDir()
	if err != nil {
		return nil, err
	}
	p.Process, err = process.Start(ctx, process.Config{
		Path: s.cfg.Bench, Args: []string{
			"bare", "--socket", s.authority.Socket("server"), "--models", s.Models, "--library", s.cfg.Library,
		},
		Ready: regexp.MustCompile(`ready (\S+)`),
	})
	if err != nil {
		return nil, err
	}
	p.Address = p.Matches[1]
	return p, nil
}

// newDir is a server to be, with a directory of its own.
func (s *Site) newDir() (*Process, error) {
	s.servers++
	dir := filepath.Join(s.Dir, fmt.Sprintf("server-%d", s.servers))
	return &Process{Dir: dir}, os.Mkdir(dir, 0o700)
}
