package main

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// keeperTimeout bounds each question to a key management service, so that one that
// does not answer is an error of the start and no start that hangs.
const keeperTimeout = 10 * time.Second

// openSealer makes what encrypts the audit log's records; nil if the configuration
// does not ask for it. It asks the keeper to wrap a key, so that what is wrong with
// the keeper shows at start.
func openSealer(ctx context.Context, cfg *configv1.Encryption) (*audit.Sealer, error) {
	if cfg == nil {
		return nil, nil //nolint:nilnil // none is wanted
	}
	keeper, name, err := openKeeper(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return audit.NewSealer(ctx, keeper, name)
}

// openKeeper opens the key-encryption key that the configuration names, and says
// what the log may call it.
func openKeeper(ctx context.Context, cfg *configv1.Encryption) (audit.Keeper, string, error) {
	switch key := cfg.GetKey().(type) {
	case *configv1.Encryption_Local:
		raw, err := secret(key.Local)
		if err != nil {
			return nil, "", fmt.Errorf("local: %w", err)
		}
		defer clear(raw)
		keeper, err := newLocalKeeper(raw)
		if err != nil {
			return nil, "", fmt.Errorf("local: %w", err)
		}
		return keeper, "local", nil
	case *configv1.Encryption_Kms:
		u, err := url.Parse(key.Kms)
		if err != nil {
			return nil, "", fmt.Errorf("kms: %w", err)
		}
		// Parameters and what else is in the URL is for this machine and not for the log.
		name := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
		// A client may keep this context, so that it must not end with the opening.
		opened, err := bounded(ctx, ctx, keeperTimeout, func(ctx context.Context) (audit.Keeper, error) { return openKMS(ctx, u) })
		if err != nil {
			return nil, "", fmt.Errorf("kms %s: %w", name, err)
		}
		return boundedKeeper{opened, keeperTimeout}, name, nil
	}
	return nil, "", errors.New("no key given")
}

// localKeeper wraps data keys with a key of this machine, by the cipher of the
// records.
type localKeeper struct{ aead cipher.AEAD }

// localBound keeps what a localKeeper wraps apart from all else under its key.
var localBound = []byte("sallyport local keeper, format 1")

func newLocalKeeper(key []byte) (*localKeeper, error) {
	if len(key) != chacha20poly1305.KeySize {
		hint := ""
		if n := len(key); n > chacha20poly1305.KeySize && n <= 2*chacha20poly1305.KeySize+1 {
			hint = ": a file has the key's bytes, not base64 or hexadecimal digits"
		}
		return nil, fmt.Errorf("the key has %d bytes and must have %d%s; 'head -c 32 /dev/urandom' makes one", len(key), chacha20poly1305.KeySize, hint)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	return &localKeeper{aead}, nil
}

// Encrypt wraps.
func (k *localKeeper) Encrypt(_ context.Context, plaintext []byte) ([]byte, error) {
	nonce := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+len(plaintext)+k.aead.Overhead())
	_, _ = rand.Read(nonce) // ends the process rather than fail
	return k.aead.Seal(nonce, nonce, plaintext, localBound), nil
}

// Decrypt opens what Encrypt made.
func (k *localKeeper) Decrypt(_ context.Context, ciphertext []byte) ([]byte, error) {
	n := k.aead.NonceSize()
	if len(ciphertext) < n {
		return nil, errors.New("it was not wrapped with a local key")
	}
	plain, err := k.aead.Open(nil, ciphertext[:n], ciphertext[n:], localBound)
	if err != nil {
		return nil, errors.New("it was wrapped with another key, or changed")
	}
	return plain, nil
}

// boundedKeeper asks a keeper and waits for so long.
type boundedKeeper struct {
	keeper  audit.Keeper
	timeout time.Duration
}

// Encrypt is the keeper's.
func (k boundedKeeper) Encrypt(ctx context.Context, plaintext []byte) ([]byte, error) {
	return k.ask(ctx, k.keeper.Encrypt, plaintext)
}

// Decrypt is the keeper's.
func (k boundedKeeper) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	return k.ask(ctx, k.keeper.Decrypt, ciphertext)
}

func (k boundedKeeper) ask(ctx context.Context, do func(context.Context, []byte) ([]byte, error), b []byte) ([]byte, error) {
	b = append([]byte(nil), b...) // the caller wipes its own, and may before do has ended
	within, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	return bounded(ctx, within, k.timeout, func(context.Context) ([]byte, error) {
		defer clear(b)
		return do(within, b)
	})
}

// bounded is do with the context within, or an error after the timeout or when ctx
// ends. Clients of key management services do not all heed a context, and the one
// for Vault panics at answers that it does not expect: do runs beside, for as long
// as its client's own timeouts let it, and a panic of it is an error.
func bounded[T any](ctx, within context.Context, timeout time.Duration, do func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			if r := recover(); r != nil {
				a = answer{err: fmt.Errorf("its answer is not what the client understands: %v", r)}
			}
			done <- a
		}()
		a.value, a.err = do(within)
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var none T
	select {
	case a := <-done:
		if a.err != nil && within.Err() != nil && ctx.Err() == nil {
			return none, fmt.Errorf("no answer within %v: %w", timeout, a.err)
		}
		return a.value, a.err
	case <-timer.C:
		return none, fmt.Errorf("no answer within %v", timeout)
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}
