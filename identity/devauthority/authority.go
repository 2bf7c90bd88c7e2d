// Package devauthority is a SPIFFE authority for one machine, for development
// and demonstrations. It serves the standard SPIFFE Workload API on one unix
// socket a workload, so that programs written against it run unchanged against
// SPIRE. It does not attest anything: who can open a workload's socket, which
// only its own user can, is that workload.
package devauthority

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
)

// Config says what an authority issues, and where it lives.
type Config struct {
	// Dir is the folder of the authority: keys in Dir/authority, sockets in
	// Dir/workloads, both only for the user it runs as.
	Dir string
	// Workloads are those that get an identity.
	Workloads []Workload
	// TTL is how long an SVID holds; an hour if zero. A new one is sent when half
	// of it has passed.
	TTL time.Duration
	// Now is the time in certificates; the system's if nil.
	Now func() time.Time
	// Log gets what goes wrong; nothing is logged if it is nil.
	Log *slog.Logger
}

// Workload is one entry of the authority's registration.
type Workload struct {
	// Name names the socket: lower-case letters, digits and dashes.
	Name string
	// ID is the SPIFFE ID that is issued. Every trust domain has a CA of its own.
	// A workload without an ID gets the answer "no identity issued".
	ID spiffeid.ID
	// DNSNames are DNS names in the SVID besides the ID.
	DNSNames []string
	// FederatesWith are other trust domains whose bundles the workload gets, and
	// whose workloads it can therefore verify.
	FederatesWith []spiffeid.TrustDomain
}

// trustDomains are those whose bundles the workload gets; its own comes first.
func (w *Workload) trustDomains() []spiffeid.TrustDomain {
	if w.ID.IsZero() {
		return nil
	}
	return append([]spiffeid.TrustDomain{w.ID.TrustDomain()}, w.FederatesWith...)
}

// DefaultWorkloads are those of `sallyport dev`: the server; clinic and
// ward-batch, which have roles; intern, which has none; and outsider, of another
// trust domain, which can verify the server but is unknown to it.
func DefaultWorkloads() []Workload {
	home := spiffeid.RequireTrustDomainFromString("sallyport.test")
	elsewhere := spiffeid.RequireTrustDomainFromString("elsewhere.test")
	return []Workload{
		{Name: "server", ID: spiffeid.RequireFromPath(home, "/sallyport"), DNSNames: []string{"localhost"}},
		{Name: "clinic", ID: spiffeid.RequireFromPath(home, "/clinic/triage")},
		{Name: "ward-batch", ID: spiffeid.RequireFromPath(home, "/ward/batch")},
		{Name: "intern", ID: spiffeid.RequireFromPath(home, "/intern")},
		{
			Name: "outsider", ID: spiffeid.RequireFromPath(elsewhere, "/outsider"),
			FederatesWith: []spiffeid.TrustDomain{home},
		},
	}
}

var workloadName = regexp.MustCompile(`^[a-z0-9-]+$`)

func (c *Config) validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("no folder"))
	}
	if len(c.Workloads) == 0 {
		errs = append(errs, errors.New("no workloads"))
	}
	if c.TTL < 0 {
		errs = append(errs, fmt.Errorf("time to live %v is negative", c.TTL))
	}
	seen := make(map[string]bool)
	for _, w := range c.Workloads {
		switch {
		case !workloadName.MatchString(w.Name):
			errs = append(errs, fmt.Errorf("workload name %q: only a-z, 0-9 and dashes", w.Name))
		case seen[w.Name]:
			errs = append(errs, fmt.Errorf("workload %s: named twice", w.Name))
		case !w.ID.IsZero() && w.ID.Path() == "":
			errs = append(errs, fmt.Errorf("workload %s: %s names a trust domain", w.Name, w.ID))
		}
		seen[w.Name] = true
	}
	return errors.Join(errs...)
}

// Authority is a running authority.
type Authority struct {
	cfg     Config
	cas     map[spiffeid.TrustDomain]*ca // read-only once started
	servers []*grpc.Server
	serving sync.WaitGroup
	close   func() error
}

// Start makes the folders, loads or makes the CA of each trust domain and
// serves every workload's socket; when it returns, all of them answer. A folder
// can have one authority at a time. The caller closes it.
//
// A CA lasts a year. One of which less than a quarter is left is replaced by the
// next Start; its certificate stays in the bundle until it expires.
func Start(cfg Config) (_ *Authority, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.TTL == 0 {
		cfg.TTL = time.Hour
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("development authority: %w", err)
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("development authority: %w", err)
	}
	a := &Authority{cfg: cfg, cas: make(map[spiffeid.TrustDomain]*ca)}
	unlock, err := a.lock()
	if err != nil {
		return nil, fmt.Errorf("development authority: %w", err)
	}
	a.close = sync.OnceValue(func() error {
		for _, s := range a.servers {
			s.Stop()
		}
		a.serving.Wait()
		return unlock()
	})
	if err := a.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("development authority: %w", err), a.close())
	}
	return a, nil
}

func (a *Authority) start() error {
	// All CAs come before the first socket: from then on they are only read.
	for _, w := range a.cfg.Workloads {
		for _, td := range w.trustDomains() {
			if a.cas[td] != nil {
				continue
			}
			ca, err := openCA(a.stateDir(), td, a.cfg.Now())
			if err != nil {
				return err
			}
			a.cas[td] = ca
		}
	}
	for _, w := range a.cfg.Workloads {
		listener, err := listen(a.Socket(w.Name))
		if err != nil {
			return fmt.Errorf("workload %s: %w", w.Name, err)
		}
		a.serve(w, listener)
	}
	return nil
}

func (a *Authority) serve(w Workload, listener net.Listener) {
	server := newServer(&service{authority: a, workload: w})
	a.servers = append(a.servers, server)
	a.serving.Go(func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			a.cfg.Log.LogAttrs(context.Background(), slog.LevelError, "workload's socket is no longer served",
				slog.String("workload", w.Name), slog.Any("error", err))
		}
	})
}

// Close ends all calls, removes the sockets and gives the folder free. SVIDs
// that were issued hold until they expire. Closing again is harmless.
func (a *Authority) Close() error { return a.close() }

// Socket is the absolute path of a workload's socket.
func (a *Authority) Socket(name string) string {
	return filepath.Join(a.cfg.Dir, "workloads", name+".sock")
}

func (a *Authority) stateDir() string { return filepath.Join(a.cfg.Dir, "authority") }
