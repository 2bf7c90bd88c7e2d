// Package devauthority is a SPIFFE authority for one machine, for development
// and demonstrations. It serves the standard SPIFFE Workload API, X.509 and JWT
// profile, on one unix socket a workload, so that programs written against it
// run unchanged against SPIRE. It does not attest anything: who can open a
// workload's socket, which only its own user can, is that workload.
package devauthority

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// Config says what an authority issues, and where it lives.
type Config struct {
	// Dir is the folder of the authority: keys in Dir/authority, sockets in
	// Dir/workloads, both only for the user it runs as.
	Dir string
	// Workloads are those that get an identity.
	Workloads []Workload
	// TTL is how long an X.509-SVID holds; an hour if zero. A new one is sent when
	// half of it has passed.
	TTL time.Duration
	// JWTTTL is how long a JWT-SVID holds; 5 minutes if zero.
	JWTTTL time.Duration
	// Now is the time in certificates and tokens; the system's if nil.
	Now func() time.Time
	// Log gets what goes wrong; nothing is logged if it is nil.
	Log *slog.Logger
}

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
	if c.JWTTTL < 0 {
		errs = append(errs, fmt.Errorf("time to live %v of JWT-SVIDs is negative", c.JWTTTL))
	}
	seen := make(map[string]bool)
	for _, w := range c.Workloads {
		if err := w.validate(); err != nil {
			errs = append(errs, err)
		} else if seen[w.Name] {
			errs = append(errs, fmt.Errorf("workload %s: named twice", w.Name))
		}
		seen[w.Name] = true
	}
	return errors.Join(errs...)
}

// Authority is a running authority. It is safe for concurrent use.
type Authority struct {
	cfg     Config
	servers []*grpc.Server
	serving sync.WaitGroup
	close   func() error

	mu      sync.Mutex // serialises changes of the registry and of the files behind it
	closed  bool       // guarded by mu
	current atomic.Pointer[registry]
}

// Start makes the folders, loads or makes the CA and the JWT key of each trust
// domain and serves every workload's socket; when it returns, all of them
// answer. A folder can have one authority at a time. The caller closes it.
//
// A CA lasts a year. One of which less than a quarter is left is replaced by the
// next Start; its certificate stays in the bundle until it expires. A JWT key
// lasts until RotateJWTKey.
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
	if cfg.JWTTTL == 0 {
		cfg.JWTTTL = 5 * time.Minute
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("development authority: %w", err)
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("development authority: %w", err)
	}
	a := &Authority{cfg: cfg}
	a.current.Store(newRegistry())
	unlock, err := a.lock()
	if err != nil {
		return nil, fmt.Errorf("development authority: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.close = sync.OnceValue(func() error {
		a.mu.Lock()
		a.closed = true
		a.mu.Unlock()
		cancel()
		for _, s := range a.servers {
			s.Stop()
		}
		a.serving.Wait()
		return unlock()
	})
	if err := a.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("development authority: %w", err), a.close())
	}
	return a, nil
}

func (a *Authority) start(ctx context.Context) error {
	err := a.change(func(next *registry) error {
		for _, w := range a.cfg.Workloads {
			if err := a.register(next, w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, w := range a.cfg.Workloads {
		listener, err := listen(a.Socket(w.Name))
		if err != nil {
			return fmt.Errorf("workload %s: %w", w.Name, err)
		}
		a.serve(w.Name, listener)
	}
	a.serving.Go(func() { a.retire(ctx) })
	return nil
}

func (a *Authority) serve(name string, listener net.Listener) {
	server := newServer(&service{authority: a, name: name})
	a.servers = append(a.servers, server)
	a.serving.Go(func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			a.cfg.Log.LogAttrs(context.Background(), slog.LevelError, "workload's socket is no longer served",
				slog.String("workload", name), slog.Any("error", err))
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
