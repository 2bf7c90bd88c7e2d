package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// auditConfig is the setting of the log in a configuration. What is wrong with it
// is the operator's to mend: nothing was opened.
func auditConfig(cfg *configv1.Audit, log *slog.Logger) (audit.Config, error) {
	if cfg.GetSigningKey() == nil {
		return audit.Config{}, fmt.Errorf("audit.signing_key is not set: make one with 'sallyport audit key --name %s --output audit-signing.key' and refer to it with audit: {signing_key: {file: audit-signing.key}}", originHint())
	}
	private, err := secret(cfg.GetSigningKey())
	if err != nil {
		return audit.Config{}, fmt.Errorf("audit.signing_key: %w", err)
	}
	key, err := audit.ParseSigningKey(string(private))
	if err != nil {
		return audit.Config{}, fmt.Errorf("audit.signing_key: %w", err)
	}
	held, err := heldCheckpoint(cfg.GetWitness())
	if err != nil {
		return audit.Config{}, fmt.Errorf("audit.witness.directory: %w", err)
	}
	return audit.Config{
		Held:               held,
		Dir:                cfg.GetDirectory(),
		Key:                key,
		CheckpointInterval: duration(cfg.GetCheckpointInterval(), 0),
		SegmentBytes:       int64(cfg.GetSegmentBytes()), //nolint:gosec // bounded by the schema
		Queue:              int(cfg.GetQueue()),
		Timeout:            duration(cfg.GetTimeout(), 0),
		Retention: audit.Retention{
			MaxAge:   duration(cfg.GetRetention().GetMaxAge(), 0),
			MaxBytes: int64(min(cfg.GetRetention().GetMaxBytes(), 1<<62)),
		},
		Logger: log,
	}, nil
}

// heldCheckpoint is the last checkpoint that a witness's directory has; nil if there
// is none.
func heldCheckpoint(cfg *configv1.Witness) ([]byte, error) {
	if cfg.GetDirectory() == "" {
		return nil, nil
	}
	notes, err := audit.Witnessed(cfg.GetDirectory())
	if errors.Is(err, audit.ErrNoCheckpoint) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return notes[len(notes)-1], nil // they are named after their size
}

// originHint is a name for a log of this machine.
func originHint() string {
	host, err := os.Hostname()
	if err != nil || strings.ContainsAny(host, " +'") {
		host = "HOST"
	}
	return host + "/sallyport"
}

// openWitness starts the witness of a configuration; nil if it names none.
func openWitness(cfg *configv1.Witness, log *slog.Logger) (*audit.Witness, error) {
	if cfg == nil {
		return nil, nil
	}
	w, err := audit.NewWitness(audit.WitnessConfig{
		Directory: cfg.GetDirectory(),
		Command:   cfg.GetCommand(),
		Timeout:   duration(cfg.GetTimeout(), 0),
		Interval:  duration(cfg.GetInterval(), time.Minute),
		Logger:    log,
	})
	if err != nil {
		return nil, fmt.Errorf("audit.witness: %w", err)
	}
	return w, nil
}

// durability is what answers wait for, by action and model.
func durability(cfg *configv1.Audit) func(action, model string) audit.Durability {
	of := map[configv1.Durability]audit.Durability{
		configv1.Durability_DURABILITY_UNSPECIFIED: audit.Required,
		configv1.Durability_REQUIRED:               audit.Required,
		configv1.Durability_WRITTEN:                audit.Written,
		configv1.Durability_ASYNC:                  audit.Async,
	}
	otherwise := of[cfg.GetDurability()]
	rules := cfg.GetDurabilityRules()
	return func(action, model string) audit.Durability {
		for _, rule := range rules {
			actions, models := rule.GetActions(), rule.GetModels()
			if (len(actions) == 0 || slices.Contains(actions, action)) &&
				(len(models) == 0 || slices.ContainsFunc(models, func(pattern string) bool { return covers(pattern, model) })) {
				return of[rule.GetDurability()]
			}
		}
		return otherwise
	}
}

// covers tells whether a pattern of models, as policies write it, has a model.
func covers(pattern, model string) bool {
	prefix, wildcard := strings.CutSuffix(pattern, "*")
	return pattern == model || wildcard && strings.HasPrefix(model, prefix) && model != ""
}

// resolveAudit makes the paths of a configuration relative to dir.
func resolveAudit(cfg *configv1.Audit, resolve func(*string)) {
	resolve(&cfg.Directory)
	for _, s := range []*configv1.Secret{
		cfg.GetDigestKey(), cfg.GetSigningKey(), cfg.GetPseudonymKey(), cfg.GetEncryption().GetLocal(),
	} {
		if f, ok := s.GetSource().(*configv1.Secret_File); ok {
			resolve(&f.File)
		}
	}
	if w := cfg.GetWitness(); w != nil {
		resolve(&w.Directory)
		// A program in PATH has no slash in its name.
		if len(w.Command) > 0 && filepath.Base(w.Command[0]) != w.Command[0] {
			resolve(&w.Command[0])
		}
	}
}
