// Package server is the listener and its life: hardened transport settings,
// health and reflection, metrics, and an end that loses nothing.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/sallyport/sallyport/interceptors"
)

// healthInterval is how often the checks decide whether the server is SERVING: four
// times in the second within which a fault has to show.
const healthInterval = 250 * time.Millisecond

const (
	// streamWindow is what an RPC may have sent before its handler asks for it. A
	// message that a handler waits for gets a window of its size besides.
	streamWindow = 256 << 10
	// connectionWindow bounds what is on its way, not what waits: it is given back as
	// data arrives.
	connectionWindow = 4 << 20
)

// Bounds limits the transport. The zero value of a field is its default.
type Bounds struct {
	// MaxConcurrentRPCs on one connection; 100. It also caps the handlers of a
	// connection, which rapid reset would otherwise multiply.
	MaxConcurrentRPCs uint32
	// MaxConnections open at once; 4096. Further ones wait to be accepted.
	MaxConnections int
	// MaxHeaderBytes is the largest header list of an RPC; 16 KiB.
	MaxHeaderBytes uint32
	// HandshakeTimeout bounds TLS and HTTP/2 set-up; 10 s.
	HandshakeTimeout time.Duration
	// MaxConnectionIdle closes a connection without RPCs; 5 min.
	MaxConnectionIdle time.Duration
	// MaxConnectionAge asks a connection to move; 15 min. Its RPCs go on.
	MaxConnectionAge time.Duration
	// DrainTimeout bounds the wait for open RPCs at the end; 15 s.
	DrainTimeout time.Duration
}

func (b Bounds) withDefaults() Bounds {
	def(&b.MaxConcurrentRPCs, 100)
	def(&b.MaxConnections, 4096)
	def(&b.MaxHeaderBytes, 16<<10)
	def(&b.HandshakeTimeout, 10*time.Second)
	def(&b.MaxConnectionIdle, 5*time.Minute)
	def(&b.MaxConnectionAge, 15*time.Minute)
	def(&b.DrainTimeout, 15*time.Second)
	return b
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Config is what a server is made of.
type Config struct {
	// Credentials prove both ends; required.
	Credentials credentials.TransportCredentials
	// Chain is the gates; required.
	Chain *interceptors.Chain
	// Register registers the services that are served beside health and
	// reflection. Every method must have an entry in the chain's table.
	Register func(grpc.ServiceRegistrar)
	// Drain is called when the server begins to stop; may be nil.
	Drain func()
	// Checks say whether the server can do its work.
	Checks []Check
	// Log is required.
	Log    *slog.Logger
	Bounds Bounds
}

// Server is one gRPC server behind the gates.
type Server struct {
	cfg      Config
	grpc     *grpc.Server
	health   *health.Server
	draining chan struct{} // closed when it begins to stop
	cut      chan struct{} // closed by Cut
	once     sync.Once     // closes cut
	patience time.Duration // with handlers that were cut off
}

// New returns a server that is ready to serve. A registered method without a
// policy action is an error.
func New(cfg Config) (*Server, error) {
	if cfg.Credentials == nil || cfg.Chain == nil || cfg.Register == nil || cfg.Log == nil {
		return nil, errors.New("server: Credentials, Chain, Register and Log are required")
	}
	cfg.Bounds = cfg.Bounds.withDefaults()
	b := cfg.Bounds
	opts := append(cfg.Chain.ServerOptions(),
		grpc.Creds(cfg.Credentials),
		grpc.MaxConcurrentStreams(b.MaxConcurrentRPCs),
		grpc.MaxHeaderListSize(b.MaxHeaderBytes),
		grpc.ConnectionTimeout(b.HandshakeTimeout),
		// Of what a handler has not asked for yet, no more than this of each RPC is taken
		// from the network. Windows that follow the bandwidth, which is the default, grow
		// to 16 MiB for each of them.
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: b.MaxConnectionIdle,
			MaxConnectionAge:  b.MaxConnectionAge,
			Time:              time.Minute,
			Timeout:           20 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 20 * time.Second, PermitWithoutStream: true}),
		// More than processors: a call waits for its record, and a worker that waits is
		// replaced by a goroutine whose stack has to grow anew. 0.88 of the time of a
		// call with 2 (BenchmarkUnary).
		grpc.NumStreamWorkers(16*uint32(runtime.GOMAXPROCS(0))), //nolint:gosec // a small number
		grpc.WaitForHandlers(true),
	)
	s := &Server{
		cfg: cfg, grpc: grpc.NewServer(opts...), health: health.NewServer(),
		draining: make(chan struct{}), cut: make(chan struct{}), patience: 10 * time.Second,
	}
	r := cfg.Chain.Registrar(s.grpc)
	cfg.Register(r)
	registerStandard(r, watchedHealth{s.health, s.draining}, s.grpc)
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s.setHealth()
	return s, nil
}

// Serve accepts connections on lis until ctx ends, then drains: health goes
// down, streams are told, open RPCs are waited for until the drain timeout,
// and what is left is cut off. All handlers have returned when it returns,
// unless its error says otherwise. Call it once.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	var background sync.WaitGroup
	watching, stopWatching := context.WithCancel(ctx)
	background.Go(func() { s.watchHealth(watching) })
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(netutil.LimitListener(lis, s.cfg.Bounds.MaxConnections)) }()

	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	s.cfg.Log.Info("draining", slog.Duration("timeout", s.cfg.Bounds.DrainTimeout))
	stopWatching()
	background.Wait()
	s.health.Shutdown()
	close(s.draining)
	if s.cfg.Drain != nil {
		s.cfg.Drain()
	}
	return errors.Join(err, s.stop())
}

// Cut ends the drain that goes on, or the next one, as its timeout would. It
// does not block.
func (s *Server) Cut() { s.once.Do(func() { close(s.cut) }) }

// Draining is a check that fails while the server stops.
func (s *Server) Draining() Check {
	return Check{Name: "draining", Err: func() error {
		select {
		case <-s.draining:
			return errors.New("the server is stopping")
		default:
			return nil
		}
	}}
}

// stop drains and then cuts off. The error is that handlers do not return.
func (s *Server) stop() error {
	drained := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(drained)
	}()
	timer := time.NewTimer(s.cfg.Bounds.DrainTimeout)
	defer timer.Stop()
	select {
	case <-drained:
		return nil
	case <-timer.C:
		s.cfg.Log.Warn("drain timeout: open RPCs are cut off", slog.Duration("timeout", s.cfg.Bounds.DrainTimeout))
	case <-s.cut:
		s.cfg.Log.Warn("no more draining: open RPCs are cut off")
	}
	go s.grpc.Stop() // waits for the handlers too
	timer.Reset(s.patience)
	select {
	case <-drained:
		return nil
	case <-timer.C:
		return fmt.Errorf("server: RPCs that were cut off have not ended within %v", s.patience)
	}
}

func (s *Server) watchHealth(ctx context.Context) {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.setHealth()
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) setHealth() {
	status := healthv1.HealthCheckResponse_SERVING
	if len(failing(s.cfg.Checks)) > 0 {
		status = healthv1.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus("", status)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, status)
	}
}
