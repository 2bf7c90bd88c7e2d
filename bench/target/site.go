// Package target sets up what is measured: a place with an authority, models, a
// policy and keys, servers that run there as processes of their own, and clients
// that are the same for each.
package target

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport/sallyport/examples"
	"github.com/sallyport/sallyport/identity/devauthority"
)

// TrustDomain is that of everybody in a site; Server is the SPIFFE ID of each
// server, and Caller that of caller i.
var (
	TrustDomain = spiffeid.RequireTrustDomainFromString("sallyport.test")
	Server      = spiffeid.RequireFromPath(TrustDomain, "/sallyport")
)

// Caller is the SPIFFE ID of caller i.
func Caller(i int) spiffeid.ID { return spiffeid.RequireFromPathf(TrustDomain, "/bench/caller-%d", i) }

// Config says what a site is made of.
type Config struct {
	// Sallyport is the binary; Bench is this program's own, for the bare server.
	Sallyport, Bench string
	// Library is ONNX Runtime's.
	Library string
	// Callers is how many workloads may call; 1 if zero.
	Callers int
}

// Site is a place where servers run. It is for one goroutine at a time.
type Site struct {
	// Dir holds everything, Models the model repository in it.
	Dir, Models string

	cfg       Config
	authority *devauthority.Authority
	sources   []*workloadapi.X509Source // of the callers
	servers   int
}

// NewSite makes a site in a new directory, with the example models. Close it.
func NewSite(ctx context.Context, cfg Config) (_ *Site, err error) {
	cfg.Callers = max(cfg.Callers, 1)
	// The paths that servers get are good from every working directory.
	for _, path := range []*string{&cfg.Sallyport, &cfg.Bench, &cfg.Library} {
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
		if _, err := os.Stat(*path); err != nil {
			return nil, fmt.Errorf("what is measured: %w", err)
		}
	}
	s := &Site{cfg: cfg}
	// The system's own, as a socket's path must be short.
	if s.Dir, err = os.MkdirTemp("", "bench"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	s.Models = filepath.Join(s.Dir, "models")
	models, err := fs.Sub(examples.FS, "models")
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(s.Models, models); err != nil {
		return nil, err
	}
	workloads := []devauthority.Workload{{Name: "server", ID: Server}}
	for i := range cfg.Callers {
		workloads = append(workloads, devauthority.Workload{Name: callerName(i), ID: Caller(i)})
	}
	if s.authority, err = devauthority.Start(devauthority.Config{Dir: s.Dir, Workloads: workloads}); err != nil {
		return nil, err
	}
	for i := range cfg.Callers {
		source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(
			workloadapi.WithAddr("unix:"+s.authority.Socket(callerName(i)))))
		if err != nil {
			return nil, err
		}
		s.sources = append(s.sources, source)
	}
	return s, nil
}

func callerName(i int) string { return fmt.Sprintf("caller-%d", i) }

// Close ends the authority and removes everything. Servers are stopped before.
func (s *Site) Close() error {
	var errs []error
	for _, source := range s.sources {
		errs = append(errs, source.Close())
	}
	if s.authority != nil {
		errs = append(errs, s.authority.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.Dir))...)
}
