package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/usertoken"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx"
)

// process is a server with all it is made of.
type process struct {
	log     *slog.Logger
	source  *identity.Source
	policy  *policy.Store
	shadow  *policy.Store       // nil if there is none
	users   *usertoken.Verifier // nil if no user's token is taken
	creds   *identity.ServerCredentials
	audit   *audit.Log
	witness *audit.Witness // nil if there is none
	runtime *onnx.Runtime
	runs    *batch.Scheduler
	models  *model.Repository
	limiter *quota.Limiter
	// quotaStore is what replicas share their quotas in; nil if this one is alone.
	quotaStore *redisstore.Store
	chain      *interceptors.Chain
	server     *server.Server
	metrics    *server.Metrics
	checks     []server.Check
	listener   net.Listener
	admin      net.Listener
	refusals   *handshakes
	domains    []spiffeid.TrustDomain
	// issuers vouch for users; tokenDomains are those of JWT-SVIDs among them.
	issuers      []string
	tokenDomains []spiffeid.TrustDomain
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
	if p.policy, err = policy.NewStore(cfg.GetPolicy().GetFile(), log, p.policyReloaded, budgetsNeedStore(cfg.GetQuota())); err != nil {
		return nil, usage(err)
	}
	if file := cfg.GetPolicy().GetShadowFile(); file != "" {
		if p.shadow, err = policy.NewShadowStore(file, log, p.shadowReloaded); err != nil {
			return nil, usage(fmt.Errorf("policy.shadow_file: %w", err))
		}
	}
	key, err := secret(cfg.GetAudit().GetDigestKey())
	if err != nil {
		return nil, usage(fmt.Errorf("audit.digest_key: %w", err))
	}
	digester, err := audit.NewDigester(key)
	if err != nil {
		return nil, usage(fmt.Errorf("audit.digest_key: %w", err))
	}
	pseudonymizer, err := openPseudonymizer(cfg.GetAudit().GetPseudonymKey())
	if err != nil {
		return nil, usage(fmt.Errorf("audit.pseudonym_key: %w", err))
	}
	auditCfg, err := auditConfig(cfg.GetAudit(), log)
	if err != nil {
		return nil, usage(err)
	}
	if p.witness, err = openWitness(cfg.GetAudit().GetWitness(), log); err != nil {
		return nil, usage(err)
	}
	if p.witness != nil {
		auditCfg.Checkpointed = p.witness.Checkpointed
	}
	library, err := onnx.FindLibrary(cfg.GetRuntime().GetLibrary())
	if err != nil {
		return nil, usage(err)
	}
	if p.runtime, err = onnx.Open(onnx.Config{
		Library: library,
		Threads: int(cfg.GetRuntime().GetThreads()),
	}); err != nil {
		return nil, usage(err)
	}
	if p.runs, err = batch.New(batch.Config{
		Concurrency: int(cfg.GetRuntime().GetConcurrency()),
		Queue:       int(cfg.GetRuntime().GetQueue()),
		MaxDelay:    duration(cfg.GetRuntime().GetMaxQueueDelay(), 0),
		// Nothing runs before there are metrics.
		Waited: func(_ context.Context, model string, d time.Duration) { p.metrics.RunWaited(model, d) },
		Merged: func(model string, requests int, rows int64, err error) {
			p.metrics.RunMerged(model, requests, rows, err)
		},
	}); err != nil {
		return nil, usage(err)
	}
	if err := checkPlaces(cfg); err != nil {
		return nil, usage(err)
	}
	p.knowIssuers(cfg.GetIdentity().GetUsers())
	if p.users, err = openUsers(ctx, cfg.GetIdentity().GetUsers(), jwtBundles{p}, log); err != nil {
		return nil, usage(fmt.Errorf("identity.users: %w", err))
	}

	if auditCfg.Sealer, err = openSealer(ctx, cfg.GetAudit().GetEncryption()); err != nil {
		return nil, usage(fmt.Errorf("audit.encryption: %w", err))
	}
	if p.audit, err = audit.Open(auditCfg); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	p.auditOpened(cfg.GetAudit().GetDirectory())

	if p.source, err = identity.Open(ctx, identity.Config{
		WorkloadAPI:  cfg.GetIdentity().GetWorkloadApi(),
		StartTimeout: cfg.GetIdentity().GetStartTimeout().AsDuration(),
		JWTBundles:   cfg.GetIdentity().GetUsers().GetJwtSvid() != nil,
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
		Scheduler:    p.runs,
		Window:       cmp.Or(int(bounds.GetStreamWindow()), 8),
		BatchTimeout: callLimit,
	})
	if err != nil {
		return nil, err
	}
	if err := p.openQuota(ctx, cfg.GetQuota()); err != nil {
		return nil, err
	}
	p.metrics = server.NewMetrics(p.sources())
	maxMessage := int(bounds.GetMaxMessageBytes())
	if maxMessage == 0 {
		maxMessage = 4 << 20
	}
	if p.chain, err = interceptors.New(interceptors.Config{
		Methods:           append(service.Methods(), server.StandardMethods()...),
		Policy:            p.policy.Load,
		Quota:             p.limiter,
		Audit:             p.audit,
		Digester:          digester,
		Pseudonymizer:     pseudonymizer,
		Durability:        durability(cfg.GetAudit()),
		Users:             p.userVerifier(),
		Shadow:            p.shadowPolicy,
		Log:               log,
		MaxMessageBytes:   maxMessage,
		MaxCallDuration:   callLimit,
		MaxStreamDuration: duration(bounds.GetMaxStreamDuration(), time.Hour),
		Observe:           p.metrics.Observe,
	}); err != nil {
		return nil, err
	}

	p.refusals = newHandshakes(p.audit, p.metrics, log)
	if p.creds, err = identity.NewServerCredentials(p.source, identity.ServerConfig{
		TrustDomains: p.domains,
		Admit:        p.admit,
		MaxPerCaller: cmp.Or(int(bounds.GetMaxConnectionsPerCaller()), 256),
		Refused:      p.refusals.refused,
	}); err != nil {
		return nil, err
	}
	p.checks = p.readiness()
	if p.server, err = server.New(server.Config{
		Credentials: p.creds,
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

// admit refuses blocked callers and addresses in the handshake.
func (p *process) admit(caller *identity.Caller, peer net.Addr) error {
	d := p.policy.Load().MayEver(policy.Request{Caller: caller.ID, Address: interceptors.PeerAddress(peer), Action: policy.None})
	if d.Outcome == policy.CallerBlocked || d.Outcome == policy.AddressBlocked {
		return &blockedError{d.Detail}
	}
	return nil
}

// event records something that happened to the server.
func (p *process) event(format string, a ...any) { p.eventAbout(nil, format, a...) }

// eventAbout records something that happened to a caller.
func (p *process) eventAbout(caller *identity.Caller, format string, a ...any) {
	if p.audit == nil {
		return
	}
	rec := &auditv1.Record{Kind: auditv1.Kind_KIND_EVENT, Time: timestamppb.Now(), Detail: fmt.Sprintf(format, a...)}
	if caller != nil {
		rec.Caller = &auditv1.Caller{SpiffeId: caller.ID.String(), SvidSerial: caller.Serial, SvidExpiry: timestamppb.New(caller.NotAfter)}
	}
	if err := p.audit.Enqueue(rec); err != nil {
		p.log.Error("event not recorded", slog.String("event", rec.GetDetail()), slog.Any("error", err))
	}
}
