package main_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// What is wrong with a site is said at start, in a line that names it. DIR in
// what is wanted stands for the site's directory.
func TestServeRefusesToStart(t *testing.T) {
	const usage, failed = 2, 1
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	replace := func(file, old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			content, err := os.ReadFile(dir + "/" + file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(content, []byte(old)) {
				t.Fatalf("%s lacks %q", file, old)
			}
			write(t, dir+"/"+file, strings.Replace(string(content), old, new, 1))
		}
	}
	in := func(old, new string) func(*testing.T, string) { return replace("sallyport.yaml", old, new) }
	inPolicy := func(old, new string) func(*testing.T, string) { return replace("policy.yaml", old, new) }
	inKey := func(content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { write(t, dir+"/audit.key", content) }
	}
	remove := func(file string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(dir + "/" + file); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		code  int
		want  string
	}{
		{"no configuration", remove("sallyport.yaml"), usage, `DIR/sallyport.yaml: no such file`},
		{"an empty one", func(t *testing.T, dir string) { write(t, dir+"/sallyport.yaml", "# nothing\n") }, usage, `DIR/sallyport.yaml: .*empty`},
		{"no YAML", in("identity:", "identity: ["), usage, `DIR/sallyport.yaml: yaml: line \d`},
		{"an unknown field", in("listen: 127.0.0.1:0\nid", "listen: 127.0.0.1:0\nport: 1\nid"), usage, `DIR/sallyport.yaml:3:.*unknown field "port"`},
		{"a field that comes twice", in("admin:", "listen: 127.0.0.1:1\nadmin:"), usage, `line \d+: key "listen" comes twice`},
		{"two documents", in("admin:", "---\nadmin:"), usage, `more than one document`},
		{"no listener", in("listen: 127.0.0.1:0\n", ""), usage, `sallyport.yaml.*listen`},
		{"a listener on every interface", in("listen: 127.0.0.1:0", "listen: :7443"), usage, `sallyport.yaml:2:.*listen`},
		{"an operator's listener on every interface", in("admin:\n  listen: 127.0.0.1:0", "admin:\n  listen: 0.0.0.0:0"), usage, `sallyport.yaml:\d+:.*must be a loopback`},
		{"one on a name that only looks like it", in("admin:\n  listen: 127.0.0.1:0", "admin:\n  listen: 127.example.org:0"), usage, `sallyport.yaml:\d+:.*loopback`},
		{"nobody may connect", in("[sallyport.test]", "[]"), usage, `sallyport.yaml.*trust_domains`},
		{"a trust domain that is an ID", in("[sallyport.test]", "[spiffe://sallyport.test]"), usage, `sallyport.yaml:\d+:.*trust_domains`},
		{"a timeout without a unit", in("start_timeout: 30s", "start_timeout: 30"), usage, `sallyport.yaml:\d+:.*duration: missing unit`},
		{"a timeout of nothing", in("start_timeout: 30s", "start_timeout: 0s"), usage, `sallyport.yaml:\d+:.*start_timeout`},
		{"a secret in the configuration", in("{file: audit.key}", "c2VjcmV0"), usage, `sallyport.yaml:\d+:`},
		{"two sources of a secret", in("{file: audit.key}", "{file: audit.key, env: KEY}"), usage, `sallyport.yaml:\d+:`},

		{"no policy", remove("policy.yaml"), usage, `DIR/policy.yaml: no such file`},
		{"an empty policy", func(t *testing.T, dir string) { write(t, dir+"/policy.yaml", "") }, usage, `DIR/policy.yaml: .*empty`},
		{"an unknown action", inPolicy("DESCRIBE]", "DESCRIBES]"), usage, `DIR/policy.yaml:5:.*DESCRIBES`},
		{"a role without limits", inPolicy("limits:", "# limits:"), usage, `DIR/policy.yaml:\d+:.*limits`},
		{"a budget that nothing keeps", inPolicy("max_streams: 64}", "max_streams: 64, budgets: [{period: DAY, rows: 1}]}"), usage, `DIR/policy.yaml: roles with budgets: everything: .*set quota.redis`},
		{"a budget of nothing", inPolicy("max_streams: 64}", "max_streams: 64, budgets: [{period: DAY, model_time: 0s}]}"), usage, `DIR/policy.yaml:\d+:.*must bound rows, bytes or model_time`},
		{"two budgets of a day", inPolicy("max_streams: 64}", "max_streams: 64, budgets: [{period: DAY, rows: 1}, {period: DAY, rows: 2}]}"), usage, `two budgets have the same period`},
		{"a Redis far away without TLS", in("admin:", "quota: {redis: {addresses: [\"redis.example.org:6379\"]}}\nadmin:"), usage, `sallyport.yaml:\d+:.*tls must be given`},
		{"a password of Redis that is not there", in("admin:", "quota: {redis: {addresses: [\"127.0.0.1:6379\"], password: {file: nowhere}}}\nadmin:"), usage, `quota.redis.password: .*DIR/nowhere`},
		{"a CA of Redis that is not there", in("admin:", "quota: {redis: {addresses: [\"127.0.0.1:6379\"], tls: {ca_file: nowhere}}}\nadmin:"), usage, `quota.redis.tls: ca_file: .*DIR/nowhere`},
		{"an unknown role", inPolicy("role: everything", "role: something"), usage, `DIR/policy.yaml: .*something`},
		{"a caller that is none", inPolicy("spiffe://sallyport.test/clinic/*", "spiffe://sallyport.test/cli*"), usage, `DIR/policy.yaml: .*spiffe://sallyport.test/cli\*`},

		{"a condition that names nothing", inPolicy("models: [\"*\"]", "models: [\"*\"]\n        when: usr.present"), usage, `DIR/policy.yaml: .*roles\[0\].rules\[0\].when.*`},
		{"no shadow policy", in("file: policy.yaml", "file: policy.yaml\n  shadow_file: next.yaml"), usage, `policy.shadow_file: .*DIR/next.yaml: no such file`},

		{"users of nobody", in("[sallyport.test]", "[sallyport.test]\n  users: {}"), usage, `sallyport.yaml:\d+:.*users must name`},
		{"an issuer without audience", in("[sallyport.test]", "[sallyport.test]\n  users: {oidc: [{issuer: 'https://idp.test'}]}"), usage, `sallyport.yaml:\d+:.*audiences`},
		{"an issuer that is none", in("[sallyport.test]", "[sallyport.test]\n  users: {oidc: [{audiences: [a]}]}"), usage, `sallyport.yaml:\d+:.*issuer`},
		{"an issuer on plain http", in("[sallyport.test]", "[sallyport.test]\n  users: {oidc: [{issuer: 'http://idp.test', audiences: [a]}]}"), usage, `identity.users: .*http://idp.test`},
		{"a symmetric algorithm", in("[sallyport.test]", "[sallyport.test]\n  users: {oidc: [{issuer: 'https://idp.test', audiences: [a], algorithms: [HS256]}]}"), usage, `sallyport.yaml:\d+:.*algorithms`},
		{"JWT-SVIDs for nobody", in("[sallyport.test]", "[sallyport.test]\n  users: {jwt_svid: {trust_domains: [sallyport.test]}}"), usage, `sallyport.yaml:\d+:.*audiences`},
		{"keys that are not there", in("[sallyport.test]", "[sallyport.test]\n  users: {oidc: [{issuer: 'https://idp.test', audiences: [a], ca_file: ca.pem}]}"), usage, `identity.users: .*DIR/ca.pem`},

		{"no key", remove("audit.key"), usage, `audit.digest_key: .*DIR/audit.key: no such file`},
		{"a key that others can read", func(t *testing.T, dir string) {
			if err := os.Chmod(dir+"/audit.key", 0o640); err != nil {
				t.Fatal(err)
			}
		}, usage, `audit.digest_key: DIR/audit.key has mode 0640: others can read it; chmod 600`},
		{"a short key", inKey("short"), usage, `audit.digest_key: .*32`},
		{"a key that is a directory", func(t *testing.T, dir string) {
			remove("audit.key")(t, dir)
			if err := os.Mkdir(dir+"/audit.key", 0o700); err != nil {
				t.Fatal(err)
			}
		}, usage, `audit.digest_key: .*DIR/audit.key.*directory`},
		{"no key of records", in("{file: audit.key}", "{file: audit.key}\n  encryption: {local: {file: none.key}}"), usage, `audit.encryption: local: .*DIR/none.key: no such file`},
		{"a short key of records", func(t *testing.T, dir string) {
			in("{file: audit.key}", "{file: audit.key}\n  encryption: {local: {file: seal.key}}")(t, dir)
			write(t, dir+"/seal.key", "short")
		}, usage, `audit.encryption: local: the key has 5 bytes and must have 32`},
		{"a key service that is nowhere", in("{file: audit.key}", "{file: audit.key}\n  encryption: {kms: \"hashivault://audit\"}"), usage, `audit.encryption: kms hashivault://audit: VAULT_SERVER_URL is not set`},
		{"a key service of another kind", in("{file: audit.key}", "{file: audit.key}\n  encryption: {kms: \"base64key://\"}"), usage, `audit.encryption.kms`},
		{"no key of pseudonyms", in("{file: audit.key}", "{file: audit.key}\n  pseudonym_key: {file: none.key}"), usage, `audit.pseudonym_key: .*DIR/none.key: no such file`},
		{"a short key of pseudonyms", func(t *testing.T, dir string) {
			in("{file: audit.key}", "{file: audit.key}\n  pseudonym_key: {file: pseudonym.key}")(t, dir)
			write(t, dir+"/pseudonym.key", "short")
		}, usage, `audit.pseudonym_key: pseudonym key has 5 bytes, at least 32 are needed`},
		{"a variable that is not set", in("{file: audit.key}", "{env: SALLYPORT_NO_KEY}"), usage, `audit.digest_key: environment variable SALLYPORT_NO_KEY is not set`},
		{"a variable that is not base64", in("{file: audit.key}", "{env: HOME}"), usage, `audit.digest_key: environment variable HOME is not base64`},

		{"no runtime", in("admin:", "runtime: {library: lib/onnx.so}\nadmin:"), usage, `DIR/lib/onnx.so, which does not exist`},
		{"a runtime that is none", in("admin:", "runtime: {library: audit.key}\nadmin:"), usage, `DIR/audit.key`},
		{"no models", remove("models"), usage, `models: .*DIR/models.*no such file`},

		{"no Workload API", in("workloads/server.sock\n  start_timeout: 30s", "agent.sock\n  start_timeout: 0.3s"), failed,
			`SPIFFE Workload API at unix://DIR/agent.sock: no identity within 300ms: .*`},
		{"no identity", in("server.sock\n  start_timeout: 30s", "nobody.sock\n  start_timeout: 0.3s"), failed,
			`SPIFFE Workload API at unix://DIR/workloads/nobody.sock: no identity within 300ms: .*`},
		{"no address of a Workload API", in("  workload_api: unix:workloads/server.sock\n", ""), usage, `SPIFFE_ENDPOINT_SOCKET`},
		{"an address that is none", in("unix:workloads/server.sock", "http://127.0.0.1"), usage, `sallyport.yaml:\d+:.*must begin with unix: or tcp://`},

		{"a log in use", func(t *testing.T, dir string) {
			log, err := audit.Open(audit.Config{Key: audittest.Key(), Dir: dir + "/audit"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = log.Close() })
		}, failed, `audit: .*DIR/audit.*another`},
		{"a log that others may write", func(t *testing.T, dir string) {
			if err := errors.Join(os.Mkdir(dir+"/audit", 0o700), os.Chmod(dir+"/audit", 0o770)); err != nil {
				t.Fatal(err)
			}
		}, usage, `audit: .*DIR/audit`},
		{"a log that does not verify", func(t *testing.T, dir string) {
			write(t, dir+"/audit/00000000000000000001.log", strings.Repeat("x", 200))
			if err := os.Chmod(dir+"/audit", 0o700); err != nil {
				t.Fatal(err)
			}
		}, failed, `audit: .*DIR/audit/00000000000000000001.log`},

		{"a port in use", in("listen: 127.0.0.1:0", "listen: "+taken.Addr().String()), failed, `^sallyport: listen: .*` + taken.Addr().String() + `: .*in use`},
		{"an operator's port in use", in("admin:\n  listen: 127.0.0.1:0", "admin:\n  listen: "+taken.Addr().String()), failed,
			`admin.listen: .*` + taken.Addr().String() + `: .*in use`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := newSite(t, "")
			tt.spoil(t, dir)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, "sallyport", "serve", "--config", dir+"/sallyport.yaml", "--log-level", "error")
			cmd.Env = append(os.Environ(), onnx.LibraryEnv+"="+onnxtest.Library(t), "GORACE=atexit_sleep_ms=0", "SPIFFE_ENDPOINT_SOCKET=")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			began := time.Now()
			_ = cmd.Run() // ProcessState has it
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			want := regexp.MustCompile(strings.ReplaceAll(tt.want, "DIR", regexp.QuoteMeta(dir)))
			said := stderr.String()
			if !want.MatchString(said) {
				t.Errorf("it said %q, want %q", said, want)
			}
			if !strings.HasPrefix(said, "sallyport: ") || stdout.Len() > 0 {
				t.Errorf("beside its error it said %q", stdout.String()+said)
			}
			// Not as long as it waits for an identity.
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}
