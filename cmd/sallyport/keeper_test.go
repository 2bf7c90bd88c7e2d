package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// sealOne seals a record as a server with the configuration does.
func sealOne(t *testing.T, cfg *configv1.Encryption) (*auditv1.WrappedKey, *auditv1.Record) {
	t.Helper()
	sealer, err := openSealer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := sealer.Seal(nil, &auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.Now(), CallId: "call-1", Model: "digits"})
	if err != nil {
		t.Fatal(err)
	}
	r := new(auditv1.Record)
	if err := proto.Unmarshal(b, r); err != nil {
		t.Fatal(err)
	}
	return sealer.WrappedKey(), r
}

// openOne opens it as a command with the flags does.
func openOne(t *testing.T, flags keyFlags, key *auditv1.WrappedKey, r *auditv1.Record) error {
	t.Helper()
	u, err := flags.unsealer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Learn(t.Context(), key); err != nil {
		return err
	}
	opened, err := u.Open(r)
	if err == nil && opened.GetModel() != "digits" {
		t.Errorf("opened %v", opened)
	}
	return err
}

func keyFile(t *testing.T, key []byte, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(name, key, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func local(from *configv1.Secret) *configv1.Encryption {
	return &configv1.Encryption{Key: &configv1.Encryption_Local{Local: from}}
}

func inFile(name string) *configv1.Secret {
	return &configv1.Secret{Source: &configv1.Secret_File{File: name}}
}

func TestLocalKey(t *testing.T) {
	key := bytes.Repeat([]byte("k"), 32)
	file := keyFile(t, key, 0o600)
	t.Setenv("SEAL_KEY", base64.StdEncoding.EncodeToString(key))
	t.Setenv("OTHER_KEY", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("o"), 32)))
	wrapped, r := sealOne(t, local(inFile(file)))
	if wrapped.GetKeeper() != "local" || bytes.Contains(wrapped.GetCiphertext(), key) {
		t.Errorf("%v", wrapped)
	}
	for _, flags := range []keyFlags{{file: file}, {env: "SEAL_KEY"}} {
		if err := openOne(t, flags, wrapped, r); err != nil {
			t.Errorf("%+v: %v", flags, err)
		}
	}
	if err := openOne(t, keyFlags{env: "OTHER_KEY"}, wrapped, r); err == nil || !strings.Contains(err.Error(), "wrapped with another key") {
		t.Errorf("with another key: %v", err)
	}
	for name, change := range map[string]func(*auditv1.WrappedKey){
		"changed":   func(w *auditv1.WrappedKey) { w.Ciphertext[30] ^= 1 },
		"truncated": func(w *auditv1.WrappedKey) { w.Ciphertext = w.GetCiphertext()[:20] },
	} {
		w := proto.CloneOf(wrapped)
		change(w)
		var missing *audit.KeyError
		if err := openOne(t, keyFlags{file: file}, w, r); !errors.As(err, &missing) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEncryptionFaults(t *testing.T) {
	t.Setenv("NOT_BASE64", "***")
	for name, tt := range map[string]struct {
		cfg  *configv1.Encryption
		want string
	}{
		"short":           {local(inFile(keyFile(t, make([]byte, 31), 0o600))), "local: the key has 31 bytes and must have 32; 'head -c 32 /dev/urandom' makes one"},
		"base64":          {local(inFile(keyFile(t, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600))), "not base64 or hexadecimal digits"},
		"empty":           {local(inFile(keyFile(t, nil, 0o600))), "0 bytes"},
		"no file":         {local(inFile(filepath.Join(t.TempDir(), "none"))), "no such file"},
		"others may read": {local(inFile(keyFile(t, make([]byte, 32), 0o644))), "others can read it; chmod 600"},
		"no variable":     {local(&configv1.Secret{Source: &configv1.Secret_Env{Env: "SALLYPORT_NO_SUCH"}}), "SALLYPORT_NO_SUCH is not set"},
		"not base64":      {local(&configv1.Secret{Source: &configv1.Secret_Env{Env: "NOT_BASE64"}}), "NOT_BASE64 is not base64"},
		"nothing":         {&configv1.Encryption{}, "no key given"},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := openSealer(t.Context(), tt.cfg); s != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want %q", s, err, tt.want)
			}
		})
	}
	if s, err := openSealer(t.Context(), nil); s != nil || err != nil {
		t.Errorf("without encryption: %v, %v", s, err)
	}
}

func TestKeyFlags(t *testing.T) {
	var parsed keyFlags
	cmd := &cobra.Command{}
	parsed.register(cmd)
	if err := cmd.ParseFlags([]string{"--key-file", "a", "--key-env", "b", "--key-kms", "c"}); err != nil || parsed != (keyFlags{"a", "b", "c"}) {
		t.Errorf("%+v, %v", parsed, err)
	}
	if u, err := (&keyFlags{}).unsealer(t.Context()); u != nil || err != nil {
		t.Errorf("without flags: %v, %v", u, err)
	}
	for _, kms := range []string{"audit", "hashivault://", "://", "hashivault"} {
		if _, err := (&keyFlags{kms: kms}).unsealer(t.Context()); err == nil || !strings.Contains(err.Error(), "--key-kms") {
			t.Errorf("--key-kms %s: %v", kms, err)
		}
	}
	if _, err := (&keyFlags{file: "x", env: "y"}).unsealer(t.Context()); err == nil || !strings.Contains(err.Error(), "--key-kms: give one") {
		t.Errorf("two keys: %v", err)
	}
	if _, err := (&keyFlags{file: "/nonexistent"}).unsealer(t.Context()); err == nil || !strings.Contains(err.Error(), "--key-file: local: ") {
		t.Errorf("%v", err)
	}
}

// hung does not heed its context, as the client for Vault does not.
type hung struct {
	got  []byte
	wait time.Duration
}

func (h *hung) Encrypt(_ context.Context, b []byte) ([]byte, error) {
	time.Sleep(h.wait)
	h.got = bytes.Clone(b)
	return b, nil
}
func (h *hung) Decrypt(context.Context, []byte) ([]byte, error) { panic("no plaintext in the answer") }

func TestKeeperIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hung{wait: time.Minute}
		k := boundedKeeper{h, keeperTimeout}
		began := time.Now()
		b := []byte("a data key")
		if _, err := k.Encrypt(t.Context(), b); err == nil || err.Error() != "no answer within 10s" {
			t.Errorf("%v", err)
		}
		clear(b) // as the caller does, while the other still has to read it
		if took := time.Since(began); took != keeperTimeout {
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if string(h.got) != "a data key" {
			t.Errorf("the keeper got %q", h.got)
		}
	})
	synctest.Test(t, func(t *testing.T) { // an interrupted start ends at once
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("stopped"))
		defer cancel()
		if _, err := (boundedKeeper{&hung{wait: time.Minute}, keeperTimeout}).Encrypt(ctx, nil); err == nil || err.Error() != "stopped" {
			t.Errorf("%v", err)
		}
		time.Sleep(time.Hour)
	})
	if _, err := (boundedKeeper{&hung{}, keeperTimeout}).Decrypt(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "not what the client understands") {
		t.Errorf("a panic: %v", err)
	}
}

func TestPseudonymFlags(t *testing.T) {
	file := keyFile(t, bytes.Repeat([]byte{1}, 32), 0o600)
	const alice = "pseudonym:73ff37176e7cc60cdfee0e51c98c44aa"
	for name, tt := range map[string]struct {
		flags         pseudonymFlags
		subject, want string
	}{
		"no key":           {pseudonymFlags{}, "alice", "alice"},
		"key":              {pseudonymFlags{file: file}, "alice", alice},
		"a pseudonym":      {pseudonymFlags{file: file}, alice, alice},
		"no user asked of": {pseudonymFlags{file: file}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := tt.flags.onRecord(tt.subject); got != tt.want || err != nil {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
	if _, err := (&pseudonymFlags{file: keyFile(t, make([]byte, 5), 0o600)}).onRecord("alice"); err == nil || !strings.Contains(err.Error(), "--pseudonym-key-file: pseudonym key has 5 bytes") {
		t.Errorf("%v", err)
	}
}
