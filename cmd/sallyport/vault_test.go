//go:build vault

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestVault holds against a real OpenBao, in the program that `make test-vault`
// brings: what TestTransit says of a transit engine, by the policies that
// docs/audit.md gives.
func TestVault(t *testing.T) {
	program, err := filepath.Abs(filepath.Join("..", "..", "build", "vault", "bao"))
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := lis.Addr().String()
	_ = lis.Close()
	const root = "root-of-this-test"
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	server := exec.CommandContext(ctx, program, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+root, "-dev-listen-address="+host)
	server.Stdout, server.Stderr = &log, &log
	server.Env = append(os.Environ(), "HOME="+t.TempDir())
	if err := server.Start(); err != nil {
		t.Fatalf("%v: `make test-vault` brings it", err)
	}
	t.Cleanup(func() {
		cancel()
		_ = server.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	v := vault{t, "http://" + host, root}
	v.await()
	v.put("sys/mounts/transit", map[string]any{"type": "transit"})
	for _, key := range []string{"audit", "other"} {
		v.put("transit/keys/"+key, map[string]any{})
	}
	who := tokens{
		server:  v.token("server", `path "transit/encrypt/audit" { capabilities = ["update"] }`),
		auditor: v.token("auditor", `path "transit/decrypt/*" { capabilities = ["update"] }`),
		nobody:  "s.nobody-1",
	}
	t.Run("transit", func(t *testing.T) { testTransit(t, v.address, who) })
	t.Run("a rotated key opens what it wrapped before", func(t *testing.T) {
		asToken(t, v.address, who.server)
		wrapped, r := sealOne(t, kms("hashivault://audit"))
		v.put("transit/keys/audit/rotate", map[string]any{})
		asToken(t, v.address, who.auditor)
		if err := openOne(t, keyFlags{kms: "hashivault://audit"}, wrapped, r); err != nil {
			t.Error(err)
		}
	})
}

// vault is a server in a test, as its root sees it.
type vault struct {
	t             *testing.T
	address, root string
}

func (v vault) await() {
	v.t.Helper()
	for range 150 {
		if resp, err := http.Get(v.address + "/v1/sys/health"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	v.t.Fatal("it does not become ready")
}

func (v vault) put(path string, body map[string]any) map[string]any {
	v.t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		v.t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPut, v.address+"/v1/"+path, bytes.NewReader(encoded))
	if err != nil {
		v.t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", v.root)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer := map[string]any{}
	_ = json.NewDecoder(resp.Body).Decode(&answer) // many answers are empty
	if resp.StatusCode/100 != 2 {
		v.t.Fatalf("%s: %s: %v", path, resp.Status, answer)
	}
	return answer
}

// token makes a token with a policy.
func (v vault) token(name, policy string) string {
	v.t.Helper()
	v.put("sys/policies/acl/"+name, map[string]any{"policy": policy})
	auth, _ := v.put("auth/token/create", map[string]any{"policies": []string{name}, "no_default_policy": true})["auth"].(map[string]any)
	return fmt.Sprint(auth["client_token"])
}
