//go:build !nokms

package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

func kms(url string) *configv1.Encryption {
	return &configv1.Encryption{Key: &configv1.Encryption_Kms{Kms: url}}
}

// tokens are those of a transit engine in a test: of a server, which may only wrap,
// of an auditor, who may only open, and of nobody.
type tokens struct{ server, auditor, nobody string }

// asToken is who the process is to the transit engine.
func asToken(t *testing.T, address, token string) {
	t.Helper()
	t.Setenv("VAULT_SERVER_URL", address)
	t.Setenv("VAULT_SERVER_TOKEN", token)
}

// testTransit holds of every transit engine, at the address, with a key "audit" and
// a key "other".
func testTransit(t *testing.T, address string, who tokens) {
	asToken(t, address, who.server)
	wrapped, r := sealOne(t, kms("hashivault://audit"))
	if wrapped.GetKeeper() != "hashivault://audit" || !strings.HasPrefix(string(wrapped.GetCiphertext()), "vault:v1:") {
		t.Errorf("%v", wrapped)
	}
	open := func(token, url string) error {
		asToken(t, address, token)
		return openOne(t, keyFlags{kms: url}, wrapped, r)
	}
	if err := open(who.auditor, "hashivault://audit"); err != nil {
		t.Error(err)
	}
	if err := open(who.auditor, "hashivault://audit?engine=transit"); err != nil {
		t.Error(err)
	}
	refused := func(name string, err error, want ...string) {
		t.Helper()
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v; want %q", name, err, w)
			}
		}
		if err != nil && (strings.Contains(err.Error(), who.nobody) || strings.Contains(err.Error(), who.server)) {
			t.Errorf("%s: the token is in %q", name, err)
		}
	}
	refused("the server opens", open(who.server, "hashivault://audit"),
		wrapped.GetId(), `"hashivault://audit"`, "transit/decrypt/audit: status 403", `capability "update" on transit/decrypt/audit`)
	refused("another key", open(who.auditor, "hashivault://other"), "transit/decrypt/other: status 400")
	for name, tt := range map[string]struct{ token, url, want string }{
		"no such token":          {who.nobody, "hashivault://audit", `transit/encrypt/audit: status 403: `},
		"may not wrap":           {who.auditor, "hashivault://audit", `capability "update" on transit/encrypt/audit`},
		"parameter of the URL":   {who.server, "hashivault://audit?x=y", "invalid query parameter"},
		"another place, no keys": {who.server, "hashivault://audit?engine=nowhere", "nowhere/encrypt/audit: status 40"},
	} {
		asToken(t, address, tt.token)
		_, err := openSealer(t.Context(), kms(tt.url))
		refused(name, err, "hashivault://audit", tt.want)
	}
}

func TestVaultAddress(t *testing.T) {
	for name, tt := range map[string]struct{ address, token, skip, want string }{
		"no address":         {"", "t", "", "VAULT_SERVER_URL is not set"},
		"no token":           {"http://127.0.0.1:1", "", "", "VAULT_SERVER_TOKEN is not set"},
		"readable":           {"http://192.0.2.1:8200", "t", "", "http://192.0.2.1:8200 is not https"},
		"readable, by name":  {"http://localhost.example.org", "t", "", "is not https"},
		"another scheme":     {"ftp://127.0.0.1", "t", "", "is not https"},
		"not verified":       {"https://127.0.0.1:1", "t", "true", "VAULT_SKIP_VERIFY is set"},
		"nobody there":       {"http://127.0.0.1:1", "t", "", "connection refused"},
		"nobody there, name": {"http://localhost:1", "t", "", "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, other := range []string{"VAULT_ADDR", "VAULT_TOKEN"} {
				t.Setenv(other, "")
			}
			t.Setenv("VAULT_SKIP_VERIFY", tt.skip)
			asToken(t, tt.address, tt.token)
			if _, err := openSealer(t.Context(), kms("hashivault://audit")); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
		})
	}
}

// Whoever answers in Vault's place, the process goes on.
func TestVaultAnswersOddly(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":         "",
		"no data":         "{}",
		"another type":    `{"data": {"ciphertext": 5}}`,
		"no JSON":         "<html>",
		"something empty": `{"data": {"ciphertext": ""}}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
			defer s.Close()
			asToken(t, s.URL, "t")
			if s, err := openSealer(t.Context(), kms("hashivault://audit")); err == nil {
				t.Errorf("%v", s)
			}
		})
	}
}

// TestAWS speaks the protocol of AWS KMS with what stands in for it.
func TestAWS(t *testing.T) {
	cipher := newTransitKey(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			KeyID                     string `json:"KeyId"`
			Plaintext, CiphertextBlob []byte
		}
		err := json.NewDecoder(r.Body).Decode(&q)
		signed := strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDTEST/")
		a := map[string]any{"KeyId": q.KeyID}
		switch r.Header.Get("X-Amz-Target") {
		case "TrentService.Encrypt":
			a["CiphertextBlob"] = cipher.Seal(nil, nil, q.Plaintext, nil)
		case "TrentService.Decrypt":
			var plain []byte
			if plain, err = cipher.Open(nil, nil, q.CiphertextBlob, nil); err == nil {
				a["Plaintext"] = plain
			}
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if err != nil || !signed || q.KeyID == "alias/foreign" {
			w.WriteHeader(http.StatusBadRequest)
			a = map[string]any{"__type": "AccessDeniedException", "message": "not yours"}
		}
		_ = json.NewEncoder(w).Encode(a)
	}))
	defer s.Close()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_KMS": s.URL, "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"),
	} {
		t.Setenv(name, value)
	}
	const key = "awskms://alias/audit?region=eu-central-1"
	wrapped, r := sealOne(t, kms(key))
	if wrapped.GetKeeper() != "awskms://alias/audit" {
		t.Errorf("%v", wrapped)
	}
	if err := openOne(t, keyFlags{kms: key}, wrapped, r); err != nil {
		t.Error(err)
	}
	if _, err := openSealer(t.Context(), kms("awskms://alias/foreign?region=eu-central-1")); err == nil || !strings.Contains(err.Error(), "AccessDeniedException: not yours") {
		t.Errorf("%v", err)
	}
}

// Of these only what needs no service is tried.
func TestOtherServices(t *testing.T) {
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "none"))
	for url, want := range map[string]string{
		"gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k":  "no such file",
		"azurekeyvault://nowhere":                                  "invalid keyID",
		"base64key://smGbjm71Nxd1Ig5FS0wj9SlbzAIrnolCz9bQQ6uAhl4=": "is none of hashivault",
	} {
		if _, err := openSealer(t.Context(), kms(url)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", url, err, want)
		}
	}
}
