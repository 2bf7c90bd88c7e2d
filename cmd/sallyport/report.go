package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/server/model"
)

// auditOpened says how the log was found.
func (p *process) auditOpened(directory string) {
	stats := p.audit.Stats()
	p.log.Info("audit log", slog.String("directory", directory),
		slog.Uint64("records", stats.Records), slog.Int("segments", stats.Segments))
	if stats.Records == 0 {
		// So it is for the first time; after that, records are missing.
		p.log.Warn("audit log: a new one was begun", slog.String("directory", directory))
		p.event("audit log begun")
	}
	if p.audit.KeyChanged() {
		// verify takes the public keys of both; without such a change it is another log.
		p.log.Warn("audit log: its last checkpoint was signed by another key than audit.signing_key", slog.String("directory", directory))
		p.event("audit log: signed by another key from record %d on", stats.Records+1)
	}
	if r := p.audit.Repaired(); r != nil {
		p.event("audit log: a torn tail of %d bytes was cut off %s and kept as %s", r.Bytes, filepath.Base(r.File), filepath.Base(r.Saved))
	}
}

// announce says at start who may connect, and what is in force.
func (p *process) announce() {
	info, _ := debug.ReadBuildInfo()
	build := describeBuild(version, info)
	p.event("server started, %s", build)
	ix := p.policy.Load()
	p.event("policy generation %d in force, sha256:%s", ix.Generation(), ix.Digest())
	p.log.Info("policy", slog.Uint64("generation", ix.Generation()), slog.String("digest", ix.Digest()))
	if shadow := p.shadowPolicy(); shadow != nil {
		p.event("shadow policy generation %d, sha256:%s", shadow.Generation(), shadow.Digest())
		p.warnOfPolicy("shadow", shadow)
		p.log.Info("shadow policy", slog.Uint64("generation", shadow.Generation()), slog.String("digest", shadow.Digest()))
	}
	p.warnOfPolicy("enforced", ix)
	p.checkIdentity()
	p.log.Info("serving", slog.String("address", p.listener.Addr().String()), slog.String("admin", p.admin.Addr().String()),
		slog.String("build", build), slog.String("onnxruntime", p.runtime.Version()))
}

// checkIdentity says what about the server's identity keeps callers out.
func (p *process) checkIdentity() {
	p.log.Info("who may connect", slog.Any("trust_domains", p.domains), slog.String("bundles", p.domainsWithBundle()))
	p.sayFindings(p.findings())
}

func (p *process) sayFindings(findings []string) {
	for _, f := range findings {
		p.log.Warn(f)
	}
}

// findings are what keeps callers out, sorted.
func (p *process) findings() []string {
	var found []string
	bundles := p.source.TrustDomains()
	for _, td := range p.domains {
		if !slices.Contains(bundles, td) {
			found = append(found, fmt.Sprintf("no bundle: until the Workload API delivers one nobody of trust domain %s can connect", td))
		}
	}
	for _, td := range p.tokenDomains {
		if _, err := p.source.GetJWTBundleForTrustDomain(td); err != nil {
			found = append(found, fmt.Sprintf("no JWT bundle: JWT-SVIDs of trust domain %s are refused", td))
		}
	}
	svid, err := p.source.GetX509SVID()
	if err != nil {
		return found // closed already
	}
	if own := svid.ID.TrustDomain(); !slices.Contains(p.domains, own) {
		found = append(found, fmt.Sprintf("the server's own trust domain %s is not among those that may connect", own))
	}
	if svid.ID.Path() != identity.ServerPath {
		found = append(found, fmt.Sprintf("clients must be told the server's SPIFFE ID %s: its path is not %s", svid.ID, identity.ServerPath))
	}
	slices.Sort(found)
	return found
}

func (p *process) domainsWithBundle() string {
	var names []string
	for _, td := range p.source.TrustDomains() {
		names = append(names, td.Name())
	}
	return strings.Join(names, " ")
}

// warnOfPolicy says what in a policy can never match here.
func (p *process) warnOfPolicy(which string, ix *policy.Index) {
	for _, issuer := range ix.Issuers() {
		if !slices.Contains(p.issuers, issuer) {
			p.log.Warn("a binding asks for users of an issuer that identity.users does not name: it never matches",
				slog.String("policy", which), slog.String("issuer", issuer))
		}
	}
}

// reload does what SIGHUP asks for, and says what came of it.
func (p *process) reload(ctx context.Context) {
	p.log.Info("SIGHUP: policy", reread(p.policy)...)
	if p.shadow != nil {
		p.log.Info("SIGHUP: shadow policy", reread(p.shadow)...)
	}
	if err := p.models.Reload(ctx); err != nil {
		p.log.Error("SIGHUP: models not reloaded", slog.Any("error", err))
		return
	}
	p.log.Info("SIGHUP: models reloaded", slog.Int("versions", p.versions()), slog.Int("failures", len(p.models.Failures())))
}

// reread reads a policy again and says what came of it.
func reread(s *policy.Store) []any {
	before, outcome := s.Generation(), "unchanged"
	if err := s.Reload(); err != nil {
		outcome = "refused" // the store logs why
	} else if s.Generation() != before {
		outcome = "reloaded"
	}
	return []any{slog.String("outcome", outcome), slog.Uint64("generation", s.Generation())}
}

// versions counts those of models that are served.
func (p *process) versions() int {
	n := 0
	for _, m := range p.models.List() {
		n += len(m.Versions)
	}
	return n
}

// readiness is what must hold for the server to do its work, and what an
// operator wants to see beside.
func (p *process) readiness() []server.Check {
	return []server.Check{
		{
			Name: "identity",
			Err: func() error {
				e := p.source.NotAfter()
				if time.Now().Before(e) {
					return nil
				}
				return fmt.Errorf("the server's own SVID expired at %s%s", e.UTC().Format(time.RFC3339), p.away())
			},
			Note: func() string {
				note := "until " + p.source.NotAfter().UTC().Format(time.RFC3339) + p.away()
				if found := p.findings(); len(found) > 0 {
					note += ", " + strings.Join(found, ", ")
				}
				return note
			},
		},
		{
			Name: "audit",
			Err:  p.audit.Err,
			Note: func() string {
				stats := p.audit.Stats()
				note := fmt.Sprintf("%d records, %d of them in the last checkpoint", stats.Records, stats.Checkpoint)
				if p.witness != nil {
					if err := p.witness.Stats().Err; err != nil {
						note += fmt.Sprintf(", witness: %v", err)
					}
				}
				return note
			},
		},
		{
			Name: "models",
			Err: func() error {
				if len(p.models.List()) > 0 {
					return nil
				}
				if n := len(p.models.Failures()); n > 0 {
					return fmt.Errorf("no model is loaded, %s", count(n, "failure"))
				}
				return errors.New("no model is loaded")
			},
			Note: func() string {
				return strings.Join([]string{
					count(len(p.models.List()), "model"), count(p.versions(), "version"), count(len(p.models.Failures()), "failure"),
				}, ", ")
			},
		},
		{
			Name: "policy",
			Err:  func() error { return nil }, // there is always one in force
			Note: func() string {
				note := fmt.Sprintf("generation %d", p.policy.Generation())
				if err := p.policy.LastError(); err != nil {
					note += fmt.Sprintf(", stale: %v", err)
				}
				if p.shadow != nil {
					note += fmt.Sprintf(", shadow generation %d", p.shadow.Generation())
					if err := p.shadow.LastError(); err != nil {
						note += fmt.Sprintf(", shadow stale: %v", err)
					}
				}
				return note
			},
		},
		{
			Name: "quota",
			// While the store is away each role says what holds; the server goes on.
			Err:  func() error { return nil },
			Note: p.quotaNote,
		},
		{
			Name: "users",
			Err:  func() error { return nil }, // callers without a user are served all the same
			Note: func() string {
				if p.users == nil {
					return "none are taken"
				}
				return strings.Join(append([]string{count(len(p.issuers), "issuer")}, p.unusableIssuers()...), ", ")
			},
		},
	}
}

// unusableIssuers are the issuers whose tokens are refused for want of keys, and
// why.
func (p *process) unusableIssuers() []string {
	if p.users == nil {
		return nil
	}
	var unusable []string
	for _, is := range p.users.Issuers() {
		if !is.Usable {
			unusable = append(unusable, fmt.Sprintf("tokens of %s are refused: %v", is.Issuer, is.Err))
		}
	}
	return unusable
}

// away says since when the Workload API does not answer; empty while it does.
func (p *process) away() string {
	since, err := p.source.Away()
	if since.IsZero() {
		return ""
	}
	return fmt.Sprintf(", Workload API away since %s: %v", since.UTC().Format(time.RFC3339), err)
}

// sources are the values that metrics show.
func (p *process) sources() server.Sources {
	return server.Sources{
		SVIDExpiry:      p.source.NotAfter,
		AuditQueue:      func() int { return p.audit.Stats().Queue },
		AuditCommit:     func() time.Duration { return p.audit.Stats().LastCommit },
		AuditRecords:    func() uint64 { return p.audit.Stats().Records },
		AuditCommits:    func() uint64 { return p.audit.Stats().Commits },
		AuditFailures:   func() uint64 { return p.audit.Stats().Failures },
		AuditCheckpoint: func() uint64 { return p.audit.Stats().Checkpoint },
		WitnessFailures: func() uint64 {
			if p.witness == nil {
				return 0
			}
			return p.witness.Stats().Failed
		},
		Quota: p.limiter.Stats,
		QuotaUses: func(n int) ([]quota.Use, int) {
			return p.limiter.Uses(n, func(quota.Account) bool { return true })
		},
		QuotaStoreAway:   func() bool { since, _ := p.limiter.StoreAway(); return !since.IsZero() },
		ModelVersions:    p.versions,
		ModelFailures:    func() int { return len(p.models.Failures()) },
		PolicyGeneration: func() uint64 { return p.policy.Load().Generation() },
		PolicyStale:      func() bool { return p.policy.LastError() != nil },
		Connections:      func() int { return p.creds.Connections() },
		RunsWaiting:      func() int { return p.runs.Waiting() },
		IssuersUnusable:  func() int { return len(p.unusableIssuers()) },
		ShadowGeneration: p.shadowGeneration,
		ShadowStale:      func() bool { return p.shadow != nil && p.shadow.LastError() != nil },
		WorkloadAPIAway:  func() bool { since, _ := p.source.Away(); return !since.IsZero() },
	}
}

// modelChanged records what became of a changed model; the repository logs.
func (p *process) modelChanged(c model.Change) {
	switch c.Kind {
	case model.Loaded:
		p.event("model %q version %d loaded, %s", c.Name, c.Version, c.Digest)
	case model.Removed:
		p.event("model %q version %d removed, %s", c.Name, c.Version, c.Digest)
	case model.Failed:
		p.event("model file %q not loaded: %v", c.Path, c.Err)
	}
}
