package audit_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// keeper wraps with AES-GCM, as key management services do.
type keeper struct {
	aead  cipher.AEAD
	asked atomic.Int64 // how often it was to open something
}

func newKeeper(t testing.TB) *keeper {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return &keeper{aead: aead}
}

func (k *keeper) Encrypt(ctx context.Context, plaintext []byte) ([]byte, error) {
	return k.aead.Seal(nil, nil, plaintext, nil), ctx.Err()
}

func (k *keeper) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	k.asked.Add(1)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return k.aead.Open(nil, nil, ciphertext, nil)
}

// oddKeeper answers what it is told to.
type oddKeeper struct {
	answer func([]byte) []byte
	err    error
}

func (k oddKeeper) Encrypt(_ context.Context, b []byte) ([]byte, error) { return k.answer(b), k.err }
func (k oddKeeper) Decrypt(_ context.Context, b []byte) ([]byte, error) { return k.answer(b), k.err }

var errDenied = errors.New("permission denied")

func newSealer(t testing.TB, k audit.Keeper) *audit.Sealer {
	t.Helper()
	s, err := audit.NewSealer(t.Context(), k, "local")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newUnsealer knows the sealers' keys.
func newUnsealer(t testing.TB, k audit.Keeper, sealers ...*audit.Sealer) *audit.Unsealer {
	t.Helper()
	u := audit.NewUnsealer(k)
	for _, s := range sealers {
		if err := u.Learn(t.Context(), s.WrappedKey()); err != nil {
			t.Fatal(err)
		}
	}
	return u
}
