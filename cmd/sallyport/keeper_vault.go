//go:build !nokms

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/api"
	"gocloud.dev/secrets/hashivault"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// openVault opens a key of the transit engine of a Vault or OpenBao. Where that is
// and the token for it are in the environment, under the names that gocloud.dev and
// Vault itself use. The client is made here and not by gocloud.dev, whose own waits
// for minutes and would send data keys over plain HTTP.
func openVault(u *url.URL) (audit.Keeper, error) {
	address := cmp.Or(os.Getenv("VAULT_SERVER_URL"), os.Getenv("VAULT_ADDR"))
	token := cmp.Or(os.Getenv("VAULT_SERVER_TOKEN"), os.Getenv("VAULT_TOKEN"))
	switch {
	case address == "":
		return nil, errors.New("VAULT_SERVER_URL is not set: it says where Vault or OpenBao is")
	case token == "":
		return nil, errors.New("VAULT_SERVER_TOKEN is not set: it is the token that may use the key")
	}
	if skip, _ := strconv.ParseBool(os.Getenv(api.EnvVaultSkipVerify)); skip {
		return nil, fmt.Errorf("%s is set: whoever answers would get the keys of the records; name its CA with %s", api.EnvVaultSkipVerify, api.EnvVaultCACert)
	}
	if err := private(address); err != nil {
		return nil, fmt.Errorf("VAULT_SERVER_URL: %w", err)
	}
	cfg := api.DefaultConfig() // reads VAULT_CACERT, VAULT_NAMESPACE and so on
	if cfg.Error != nil {
		return nil, cfg.Error
	}
	// The keeper is waited for less long than this, which ends what was left behind.
	cfg.Address, cfg.Timeout, cfg.MaxRetries = address, 2*keeperTimeout, 0
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	client.SetToken(token)
	keeper, err := (&hashivault.URLOpener{Client: client}).OpenKeeperURL(context.Background(), u)
	if err != nil {
		return nil, err
	}
	engine := cmp.Or(u.Query().Get("engine"), "transit")
	return vaultKeeper{keeper, engine, path.Join(u.Host, u.Path)}, nil
}

// private refuses an address to which data keys would go readable for others.
func private(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("it is no URL") // which might hold a password
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme == "https" || u.Scheme == "unix" ||
		u.Scheme == "http" && (err == nil && ip.IsLoopback() || u.Hostname() == "localhost") {
		return nil
	}
	return fmt.Errorf("%s is not https, nor http of a loopback address", u.Redacted())
}

// vaultKeeper says in its errors what to do about them.
type vaultKeeper struct {
	audit.Keeper
	engine, key string
}

// Encrypt wraps.
func (k vaultKeeper) Encrypt(ctx context.Context, plaintext []byte) ([]byte, error) {
	b, err := k.Keeper.Encrypt(ctx, plaintext)
	return b, k.explain(err, "encrypt")
}

// Decrypt opens.
func (k vaultKeeper) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	b, err := k.Keeper.Decrypt(ctx, ciphertext)
	return b, k.explain(err, "decrypt")
}

func (k vaultKeeper) explain(err error, verb string) error {
	if err == nil {
		return nil
	}
	where := path.Join(k.engine, verb, k.key)
	var answered *api.ResponseError
	if errors.As(err, &answered) {
		err = fmt.Errorf("%s: status %d: %.300s", where, answered.StatusCode, strings.Join(strings.Fields(strings.Join(answered.Errors, "; ")), " "))
		switch answered.StatusCode {
		case http.StatusForbidden:
			err = fmt.Errorf("%w\n  the token must be valid, and its policy have the capability \"update\" on %s", err, where)
		case http.StatusNotFound:
			err = fmt.Errorf("%w\n  is the engine enabled? 'vault secrets enable -path=%s transit', 'vault write -f %s/keys/%s'", err, k.engine, k.engine, k.key)
		}
		return err
	}
	return fmt.Errorf("%s: %w", where, err)
}
