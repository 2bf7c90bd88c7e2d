package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/proto/configfile"
)

// openQuota makes the limiter, and the store that replicas share if there is one.
func (p *process) openQuota(ctx context.Context, cfg *configv1.Quota) error {
	r := cfg.GetRedis()
	if r == nil {
		p.limiter = quota.New(quota.Config{})
		return nil
	}
	store := redisstore.Config{
		Addresses:  r.GetAddresses(),
		MasterName: r.GetMasterName(),
		Username:   r.GetUsername(),
		Database:   int(r.GetDatabase()),
		KeyPrefix:  r.GetKeyPrefix(),
		Timeout:    duration(r.GetTimeout(), 0),
	}
	if r.GetPassword() != nil {
		password, err := secret(r.GetPassword())
		if err != nil {
			return usage(fmt.Errorf("quota.redis.password: %w", err))
		}
		store.Password = strings.TrimRight(string(password), "\r\n")
	}
	var err error
	if store.TLS, err = redisTLS(r.GetTls()); err != nil {
		return usage(fmt.Errorf("quota.redis.tls: %w", err))
	}
	if p.quotaStore, err = redisstore.New(store); err != nil {
		return usage(fmt.Errorf("quota.redis: %w", err))
	}
	lease := quota.Lease{Duration: duration(cfg.GetLease().GetDuration(), 0)}
	if l := cfg.GetLease(); l != nil && l.Share != nil {
		if lease.Share = l.GetShare(); lease.Share == 0 {
			lease.Share = -1 // none; 0 is the default there
		}
	}
	p.limiter = quota.New(quota.Config{
		Store: p.quotaStore, Lease: lease, Timeout: store.Timeout, StoreChanged: p.quotaStoreChanged,
	})
	p.limiter.Probe(ctx) // quotaStoreChanged is told
	p.log.Info("quotas are shared", slog.String("redis", strings.Join(r.GetAddresses(), " ")))
	return nil
}

// redisTLS is how a Redis is known; nil for plain TCP.
func redisTLS(t *configv1.RedisTLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.GetServerName()}
	if file := t.GetCaFile(); file != "" {
		pem, err := configfile.Read(file, maxSecretBytes)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: no certificate in %s", file)
		}
	}
	if t.GetCertFile() != "" {
		cert, err := tls.LoadX509KeyPair(t.GetCertFile(), t.GetKeyFile())
		if err != nil {
			return nil, fmt.Errorf("cert_file, key_file: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// quotaStoreChanged says that the store of quotas went, or is back.
func (p *process) quotaStoreChanged(err error) {
	if err != nil {
		p.log.Error("the store of quotas does not answer: what needs it follows each role's on_store_failure", slog.Any("error", err))
		p.event("the store of quotas does not answer: %v", err)
		return
	}
	p.log.Info("the store of quotas answers again")
	p.event("the store of quotas answers again")
}

// quotaNote is what /readyz says of quotas.
func (p *process) quotaNote() string {
	if p.quotaStore == nil {
		return "counted in this process"
	}
	since, err := p.limiter.StoreAway()
	if err != nil {
		return fmt.Sprintf("store away since %s: %v", since.UTC().Format(time.RFC3339), err)
	}
	return "store answers"
}

// budgetsNeedStore refuses a policy with budgets where nothing keeps them.
func budgetsNeedStore(cfg *configv1.Quota) func(*policy.Index) error {
	return func(ix *policy.Index) error {
		if cfg.GetRedis() != nil || len(ix.Budgeted()) == 0 {
			return nil
		}
		return errors.New("roles with budgets: " + strings.Join(ix.Budgeted(), ", ") +
			": a budget must outlive this process; set quota.redis in the server's configuration, or take the budgets away")
	}
}
