package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx"
)

// process is a server with all it is made of.
type process struct {
	log      *slog.Logger
	source   *identity.Source
	policy   *policy.Store
	audit    *audit.Log
	runtime  *onnx.Runtime
	models   *model.Repository
	chain    *interceptors.Chain
	server   *server.Server
	metrics  *server.Metrics
	checks   []server.Check
	listener net.Listener
	admin    net.Listener
	refusals *handshakes
	domains  []spiffeid.TrustDomain
}

// assemble makes a server from its configuration, in the order in which its
// parts need each other. What it could open before an error it closes.
func assemble(ctx context.Context, cfg *configv1.Server, log *slog.Logger) (_ *process, err error) {
	p := &process{log: log}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, p.close(ctx))
		if ctx.Err() != nil {
			err = fmt.Errorf("stopped while starting: %w", err)
		}
	}()

	// What an operator can get wrong is checked before what can take time.
	for _, name := range cfg.GetIdentity().GetTrustDomains() {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return nil, usage(fmt.Errorf("identity.trust_domains: %w", err))
		}
		p.domains = append(p.domains, td)
	}
	if p.policy, err = policy.NewStore(cfg.GetPolicy().GetFile(), log, p.policyReloaded); err != nil {
		return nil, usage(err)
	}
	key, err := secret(cfg.GetAudit().GetDigestKey())
	if err != nil {
		return nil, usage(fmt.Errorf("audit.digest_key: %w", err))
	}
	digester, err := audit.NewDigester(key)
	if err != nil {
		return nil, usage(fmt.Errorf("audit.digest_key: %w", err))
	}
	library, err := onnx.FindLibrary(cfg.GetRuntime().GetLibrary())
	if err != nil {
		return nil, usage(err)
	}
	if p.runtime, err = onnx.Open(onnx.Config{
		Library:     library,
		Threads:     int(cfg.GetRuntime().GetThreads()),
		Concurrency: int(cfg.GetRuntime().GetConcurrency()),
		Queue:       int(cfg.GetRuntime().GetQueue()),
	}); err != nil {
		return nil, usage(err)
	}
	if err := checkDirectories(cfg); err != nil {
		return nil, usage(err)
	}

	if p.audit, err = audit.Open(audit.Config{
		Dir:          cfg.GetAudit().GetDirectory(),
		SegmentBytes: int64(cfg.GetAudit().GetSegmentBytes()), //nolint:gosec // bounded by the schema
		Logger:       log,
	}); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	p.auditOpened(cfg.GetAudit().GetDirectory())

	if p.source, err = identity.Open(ctx, identity.Config{
		WorkloadAPI:  cfg.GetIdentity().GetWorkloadApi(),
		StartTimeout: cfg.GetIdentity().GetStartTimeout().AsDuration(),
		Log:          log,
	}); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}

	if p.models, err = model.Open(ctx, model.Config{
		Directory:        cfg.GetModels().GetDirectory(),
		PollInterval:     duration(cfg.GetModels().GetPollInterval(), 0),
		MaxArtifactBytes: int64(cfg.GetModels().GetMaxArtifactBytes()), //nolint:gosec // bounded by the schema
		OnChange:         p.modelChanged,
	}, p.runtime, log); err != nil {
		return nil, fmt.Errorf("models: %w", err)
	}

	bounds := cfg.GetBounds()
	callLimit := duration(bounds.GetMaxCallDuration(), 30*time.Second)
	service, err := inference.New(inference.Config{
		Models:       p.models,
		Window:       cmp.Or(int(bounds.GetStreamWindow()), 8),
		BatchTimeout: callLimit,
	})
	if err != nil {
		return nil, err
	}
	limiter := quota.New(quota.Config{})
	p.metrics = server.NewMetrics(p.sources(limiter))
	maxMessage := int(bounds.GetMaxMessageBytes())
	if maxMessage == 0 {
		maxMessage = 4 << 20
	}
	if p.chain, err = interceptors.New(interceptors.Config{
		Methods:           append(service.Methods(), server.StandardMethods()...),
		Policy:            p.policy.Load,
		Quota:             limiter,
		Audit:             p.audit,
		Digester:          digester,
		Log:               log,
		MaxMessageBytes:   maxMessage,
		MaxCallDuration:   callLimit,
		MaxStreamDuration: duration(bounds.GetMaxStreamDuration(), time.Hour),
		Observe:           p.metrics.Observe,
	}); err != nil {
		return nil, err
	}

	p.refusals = newHandshakes(p.audit, p.metrics, log)
	creds, err := identity.NewServerCredentials(p.source, identity.ServerConfig{
		TrustDomains: p.domains,
		Admit:        p.admit,
		Refused:      p.refusals.refused,
	})
	if err != nil {
		return nil, err
	}
	p.checks = p.readiness()
	if p.server, err = server.New(server.Config{
		Credentials: creds,
		Chain:       p.chain,
		Register: func(r grpc.ServiceRegistrar) {
			inferencev1.RegisterPredictionServiceServer(r, service)
			inferencev1.RegisterModelServiceServer(r, service)
		},
		Drain:  service.Drain,
		Checks: p.checks,
		Log:    log,
		Bounds: server.Bounds{
			MaxConcurrentRPCs: bounds.GetMaxConcurrentRpcs(),
			MaxConnections:    int(bounds.GetMaxConnections()),
			MaxHeaderBytes:    bounds.GetMaxHeaderBytes(),
			HandshakeTimeout:  duration(bounds.GetHandshakeTimeout(), 0),
			MaxConnectionIdle: duration(bounds.GetMaxConnectionIdle(), 0),
			MaxConnectionAge:  duration(bounds.GetMaxConnectionAge(), 0),
			DrainTimeout:      duration(bounds.GetDrainTimeout(), 0),
		},
	}); err != nil {
		return nil, err
	}

	var lc net.ListenConfig
	if p.listener, err = lc.Listen(ctx, "tcp", cfg.GetListen()); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if p.admin, err = lc.Listen(ctx, "tcp", cfg.GetAdmin().GetListen()); err != nil {
		return nil, fmt.Errorf("admin.listen: %w", err)
	}
	return p, nil
}

// run serves until ctx ends and then stops in the order that loses nothing.
// Each value from hangups reloads policy and models.
func (p *process) run(ctx context.Context, hangups <-chan os.Signal) error {
	p.announce()
	var background sync.WaitGroup
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	failed := make(chan error, 3)
	start := func(name string, f func(context.Context) error) {
		background.Go(func() {
			if err := f(working); err != nil && !errors.Is(err, context.Canceled) {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	start("policy", p.policy.Run)
	background.Go(func() { p.models.Run(working) })
	start("admin", func(ctx context.Context) error {
		return server.ServeAdmin(ctx, p.admin, append(p.checks, p.server.Draining()), p.metrics.Gatherer())
	})
	background.Go(func() {
		for {
			select {
			case <-hangups:
				p.reload(working)
			case <-working.Done():
				return
			}
		}
	})

	background.Go(func() { p.cutOnSignal(ctx, working) })

	serving, cut := context.WithCancelCause(ctx)
	background.Go(func() {
		select {
		case err := <-failed:
			cut(err)
		case <-working.Done():
		}
	})
	err := p.server.Serve(serving, p.listener)
	if cause := context.Cause(serving); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	cut(nil)
	stop()
	background.Wait()
	p.event("server stopped")
	err = errors.Join(err, p.close(ctx))
	p.log.Info("stopped")
	return err
}

// cutOnSignal waits for the signal that ends the drain: the one after that
// which ended ctx. A further one ends the process.
func (p *process) cutOnSignal(ctx, working context.Context) {
	select {
	case <-ctx.Done():
	case <-working.Done():
		return
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(again)
	select {
	case <-again:
		p.server.Cut()
	case <-working.Done():
	}
}

// closeTimeout bounds the end of each part after the drain.
const closeTimeout = 10 * time.Second

// close ends what assemble opened, the audit log last: all before it may still
// have something to record. That ctx has ended does not matter. The error says
// also whether records were lost.
func (p *process) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	var errs []error
	end := func(part string, err error) {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close %s: %w", part, err))
		}
	}
	if p.listener != nil {
		end("listener", p.listener.Close())
	}
	if p.admin != nil {
		end("admin", p.admin.Close())
	}
	if p.chain != nil {
		end("chain", p.chain.Close(ctx))
	}
	if p.models != nil {
		end("models", p.models.Close(ctx))
	}
	if p.runtime != nil {
		end("runtime", p.runtime.Close())
	}
	if p.source != nil {
		end("identity", p.source.Close())
	}
	if p.audit != nil {
		end("audit log", p.audit.Close())
	}
	return errors.Join(errs...)
}

// admit refuses blocked callers and addresses in the handshake.
func (p *process) admit(caller *identity.Caller, peer net.Addr) error {
	d := p.policy.Load().MayEver(caller.ID, interceptors.PeerAddress(peer), policy.None)
	if d.Outcome == policy.CallerBlocked || d.Outcome == policy.AddressBlocked {
		return &blockedError{d.Detail}
	}
	return nil
}

// event records something that happened to the server.
func (p *process) event(format string, a ...any) {
	if p.audit == nil {
		return
	}
	rec := &auditv1.Record{Kind: auditv1.Kind_KIND_EVENT, Time: timestamppb.Now(), Detail: fmt.Sprintf(format, a...)}
	if err := p.audit.Enqueue(rec); err != nil {
		p.log.Error("event not recorded", slog.String("event", rec.GetDetail()), slog.Any("error", err))
	}
}
