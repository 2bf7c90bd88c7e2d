package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/interceptors/policy"
)

// followIdentity rechecks the open connections after each update of the Workload
// API, until ctx ends: a bundle may have left. It says what has changed about who
// can connect.
func (p *process) followIdentity(ctx context.Context) {
	before := p.findings()
	for {
		updated := p.source.Updated()
		p.recheckConnections()
		if now := p.findings(); !slices.Equal(now, before) {
			p.sayFindings(now)
			p.event("identity: %s", strings.Join(append(now, "trust domains with a bundle: "+p.domainsWithBundle()), "; "))
			before = now
		}
		select {
		case <-updated:
		case <-ctx.Done():
			return
		}
	}
}

// recheckConnections ends the connections of callers that would no longer be let
// in, and says whose they were.
func (p *process) recheckConnections() {
	ended := p.creds.Recheck()
	p.metrics.ConnectionsRevoked(len(ended))
	for _, s := range ended {
		p.eventAbout(s.Caller(), "connection from %s ended: %v", s.Peer(), s.Err())
		p.log.Warn("connection ended", slog.String("caller", s.Caller().ID.String()),
			slog.String("serial", s.Caller().Serial), slog.String("peer", s.Peer().String()), slog.Any("reason", s.Err()))
	}
}

// userInterval is how often the users of open calls are asked for again.
const userInterval = 500 * time.Millisecond

// followUsers ends the calls of users whose token is no longer accepted, until ctx
// ends.
func (p *process) followUsers(ctx context.Context) {
	tick := time.NewTicker(userInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if n := p.chain.RecheckUsers(ctx); n > 0 {
				p.metrics.CallsRevoked(n)
				p.log.Warn("open calls ended: their users' tokens are no longer accepted", slog.Int("calls", n))
			}
		case <-ctx.Done():
			return
		}
	}
}

// policyReloaded records what became of a changed policy file, which the store
// logs, and has what is open follow it.
func (p *process) policyReloaded(e policy.Event) {
	if e.Err != nil {
		p.event("policy refused, generation %d stays in force: %v", e.Generation, e.Err)
		return
	}
	p.event("policy generation %d in force, sha256:%s", e.Generation, e.Digest)
	if p.server == nil {
		return // still starting: nothing is open
	}
	p.warnOfPolicy("enforced", p.policy.Load())
	p.recheckConnections()
	n := p.chain.Recheck()
	p.metrics.CallsRevoked(n)
	if n > 0 {
		p.log.Warn("open calls ended: the new policy does not allow them", slog.Int("calls", n))
	}
}

// shadowReloaded records what became of a changed shadow policy.
func (p *process) shadowReloaded(e policy.Event) {
	if e.Err != nil {
		p.event("shadow policy refused, generation %d stays: %v", e.Generation, e.Err)
		return
	}
	p.event("shadow policy generation %d, sha256:%s", e.Generation, e.Digest)
	if p.server != nil {
		p.warnOfPolicy("shadow", p.shadow.Load())
	}
}

// shadowPolicy is the policy that is recorded and not enforced; nil if none.
func (p *process) shadowPolicy() *policy.Index {
	if p.shadow == nil {
		return nil
	}
	return p.shadow.Load()
}

func (p *process) shadowGeneration() uint64 {
	if p.shadow == nil {
		return 0
	}
	return p.shadow.Generation()
}
