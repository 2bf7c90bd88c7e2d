package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/server/model"
)

// announce says at start who the server is and what it serves.
func (p *process) announce() {
	svid, err := p.source.GetX509SVID()
	if err == nil {
		p.log.Info("identity", slog.String("id", svid.ID.String()), slog.Time("expires", p.source.NotAfter()),
			slog.Any("admits", p.domains), slog.Any("bundles", p.source.TrustDomains()))
	}
	for _, m := range p.models.List() {
		for _, v := range m.Versions {
			p.log.Info("model", slog.String("name", m.Name), slog.Int64("version", v.Number),
				slog.Bool("default", v.Number == m.Default), slog.String("digest", v.Digest))
		}
	}
	for path, err := range p.models.Failures() {
		p.log.Error("model not loaded", slog.String("path", path), slog.Any("error", err))
	}
	ix := p.policy.Load()
	p.log.Info("policy", slog.Uint64("generation", ix.Generation()), slog.String("digest", ix.Digest()))
	p.log.Info("serving", slog.String("address", p.listener.Addr().String()), slog.String("admin", p.admin.Addr().String()),
		slog.String("onnxruntime", p.runtime.Version()))
}

// readiness is what must hold for the server to do its work.
func (p *process) readiness() []server.Check {
	return []server.Check{
		{Name: "identity", Err: func() error {
			if e := p.source.NotAfter(); !time.Now().Before(e) {
				return fmt.Errorf("the server's own SVID expired at %s", e)
			}
			return nil
		}},
		{Name: "audit", Err: p.audit.Err},
		{Name: "models", Err: func() error {
			if len(p.models.List()) == 0 {
				return errors.New("no model is loaded")
			}
			return nil
		}},
	}
}

// sources are the values that metrics show.
func (p *process) sources(limiter *quota.Limiter) server.Sources {
	return server.Sources{
		SVIDExpiry:    p.source.NotAfter,
		AuditQueue:    func() int { return p.audit.Stats().Queue },
		AuditCommit:   func() time.Duration { return p.audit.Stats().LastCommit },
		AuditRecords:  func() uint64 { return p.audit.Stats().Records },
		AuditFailures: func() uint64 { return p.audit.Stats().Failures },
		QuotaCallers:  func() int { return limiter.Stats().Callers },
		ModelVersions: func() int {
			n := 0
			for _, m := range p.models.List() {
				n += len(m.Versions)
			}
			return n
		},
		ModelFailures:    func() int { return len(p.models.Failures()) },
		PolicyGeneration: func() uint64 { return p.policy.Load().Generation() },
		PolicyStale:      func() bool { return p.policy.LastError() != nil },
	}
}

// policyReloaded records what became of a changed policy file; the store logs.
func (p *process) policyReloaded(e policy.Event) {
	if e.Err != nil {
		p.event("policy refused, generation %d stays in force: %v", e.Generation, e.Err)
		return
	}
	p.event("policy generation %d in force, sha256:%s", e.Generation, e.Digest)
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
