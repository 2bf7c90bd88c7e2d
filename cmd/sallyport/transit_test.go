//go:build !nokms

package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
)

func newTransitKey(t *testing.T) cipher.AEAD {
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
	return aead
}

// TestTransit holds against what speaks the protocol of a transit engine with real
// ciphers and checks tokens, and is none. `make test-vault` asks a real one the
// same.
func TestTransit(t *testing.T) {
	keys := map[string]cipher.AEAD{"audit": newTransitKey(t), "other": newTransitKey(t)}
	who := tokens{server: "s.server-1", auditor: "s.auditor-1", nobody: "s.nobody-1"}
	may := map[string]string{who.server: "encrypt", who.auditor: "decrypt"}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(status int, body map[string]any) {
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(body)
		}
		refuse := func(status int, text string) { answer(status, map[string]any{"errors": []string{text}}) }
		verb, name := path.Split(strings.TrimPrefix(r.URL.Path, "/v1/transit/"))
		verb = strings.TrimSuffix(verb, "/")
		key := keys[name]
		if r.Method != http.MethodPut || may[r.Header.Get("X-Vault-Token")] != verb || key == nil {
			refuse(http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
			return
		}
		var q struct{ Plaintext, Ciphertext string }
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			refuse(http.StatusBadRequest, "error parsing JSON")
			return
		}
		if verb == "encrypt" {
			plain, err := base64.StdEncoding.DecodeString(q.Plaintext)
			if err != nil {
				refuse(http.StatusBadRequest, "failed to base64-decode plaintext")
				return
			}
			answer(http.StatusOK, map[string]any{"data": map[string]any{"ciphertext": "vault:v1:" + base64.StdEncoding.EncodeToString(key.Seal(nil, nil, plain, nil))}})
			return
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(q.Ciphertext, "vault:v1:"))
		if err == nil {
			b, err = key.Open(nil, nil, b, nil)
		}
		if err != nil {
			refuse(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		answer(http.StatusOK, map[string]any{"data": map[string]any{"plaintext": base64.StdEncoding.EncodeToString(b)}})
	}))
	defer s.Close()
	testTransit(t, s.URL, who)
}
