package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/proto/configfile"
)

// What a server reads at start is small.
const (
	maxConfigBytes = 1 << 20
	maxSecretBytes = 64 << 10
)

// loadConfig reads a server's configuration. Paths in it are made relative to
// the file's directory. The error names file, line and rule of every fault.
func loadConfig(path string) (*configv1.Server, error) {
	data, err := configfile.Read(path, maxConfigBytes)
	if err != nil {
		return nil, err
	}
	return parseConfig(data, path)
}

func parseConfig(data []byte, path string) (*configv1.Server, error) {
	cfg := &configv1.Server{}
	if err := configfile.Parse(path, data, cfg); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	resolve := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	resolve(&cfg.Policy.File)
	resolve(&cfg.Policy.ShadowFile)
	for _, issuer := range cfg.GetIdentity().GetUsers().GetOidc() {
		resolve(&issuer.CaFile)
		if f, ok := issuer.GetKeys().(*configv1.OIDCIssuer_JwksFile); ok {
			resolve(&f.JwksFile)
		}
	}
	resolve(&cfg.Models.Directory)
	resolveAudit(cfg.GetAudit(), resolve)
	if rt := cfg.GetRuntime(); rt != nil {
		resolve(&rt.Library)
	}
	if r := cfg.GetQuota().GetRedis(); r != nil {
		if f, ok := r.GetPassword().GetSource().(*configv1.Secret_File); ok {
			resolve(&f.File)
		}
		if t := r.GetTls(); t != nil {
			resolve(&t.CaFile)
			resolve(&t.CertFile)
			resolve(&t.KeyFile)
		}
	}
	if socket, ok := strings.CutPrefix(cfg.GetIdentity().GetWorkloadApi(), "unix:"); ok && !strings.HasPrefix(socket, "/") {
		cfg.Identity.WorkloadApi = "unix://" + filepath.Join(dir, socket)
	}
	return cfg, nil
}

// checkPlaces finds before a server waits for its identity that there is none to
// wait for, or a directory that cannot be used.
func checkPlaces(cfg *configv1.Server) error {
	if cfg.GetIdentity().GetWorkloadApi() == "" && os.Getenv(workloadapi.SocketEnv) == "" {
		return fmt.Errorf("identity.workload_api is not set, nor is %s in the environment", workloadapi.SocketEnv)
	}
	models := cfg.GetModels().GetDirectory()
	if info, err := os.Stat(models); err != nil {
		return fmt.Errorf("models: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("models: %s is not a directory", models)
	}
	log := cfg.GetAudit().GetDirectory()
	switch info, err := os.Stat(log); {
	case errors.Is(err, fs.ErrNotExist): // it will be made
	case err != nil:
		return fmt.Errorf("audit: %w", err)
	case !info.IsDir():
		return fmt.Errorf("audit: %s is not a directory", log)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("audit: %s has mode %#o: others may write to it; chmod it to 0700", log, info.Mode().Perm())
	}
	return nil
}

// secret reads the value that a configuration refers to.
func secret(s *configv1.Secret) ([]byte, error) {
	switch src := s.GetSource().(type) {
	case *configv1.Secret_File:
		info, err := os.Stat(src.File)
		if err != nil {
			return nil, err
		}
		if info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("%s has mode %#o: others can read it; chmod 600 %s", src.File, info.Mode().Perm(), src.File)
		}
		return configfile.Read(src.File, maxSecretBytes)
	case *configv1.Secret_Env:
		v, ok := os.LookupEnv(src.Env)
		if !ok {
			return nil, fmt.Errorf("environment variable %s is not set", src.Env)
		}
		key, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			return nil, fmt.Errorf("environment variable %s is not base64", src.Env)
		}
		return key, nil
	}
	return nil, errors.New("no source given")
}

// duration is d, or def if it is not set.
func duration(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return d.AsDuration()
}
