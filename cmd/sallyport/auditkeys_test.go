package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
)

// A log with pseudonyms is asked about a user by the subject and the key, and says
// what it cannot tell.
func TestCommandsAndPseudonyms(t *testing.T) {
	key, other := keyFile(t, bytes.Repeat([]byte{1}, 32), 0o600), keyFile(t, bytes.Repeat([]byte{2}, 32), 0o600)
	const alice = "pseudonym:73ff37176e7cc60cdfee0e51c98c44aa"
	dir := filepath.Join(t.TempDir(), "audit")
	log, err := audit.Open(audit.Config{Key: audittest.Key(), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for id, subject := range map[string]string{"01ALICE": alice, "01BOB": "bob"} {
		if err := log.Append(t.Context(), &auditv1.Record{
			Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.Now(), CallId: id, Action: "PREDICT", Model: "digits",
			Caller: &auditv1.Caller{SpiffeId: "spiffe://td/portal"}, User: &auditv1.User{Issuer: "https://idp", Subject: subject},
		}, audit.Required); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte(`
roles:
  - name: reader
    rules: [{actions: [PREDICT], models: ["*"]}]
    limits: {requests_per_second: 9, rows_per_second: 9, max_streams: 9}
bindings:
  - {role: reader, callers: ["spiffe://td/portal"], user: {issuer: "https://idp", subjects: [alice]}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	show := []string{"audit", "show", dir}
	explain := []string{"policy", "explain", "--audit", dir, "--policy", policy, "--call"}
	for name, tt := range map[string]struct {
		args       []string
		code       int
		want, lack string
	}{
		"found by subject and key":      {append(show, "--user", "alice", "--pseudonym-key-file", key), 0, "01ALICE", "01BOB"},
		"found by pseudonym":            {append(show, "--user", alice), 0, "01ALICE", "01BOB"},
		"not found without the key":     {append(show, "--user", "alice"), 0, "TIME", "01ALICE"},
		"not found by another key":      {append(show, "--user", "alice", "--pseudonym-key-file", other), 0, "TIME", "01ALICE"},
		"two keys":                      {append(show, "--user", "alice", "--pseudonym-key-file", key, "--pseudonym-key-env", "X"), 2, "--pseudonym-key-file, --pseudonym-key-env: give one", ""},
		"explained without the subject": {append(explain, "01ALICE"), 0, "note: the record has a pseudonym for the user: bindings that name subjects", ""},
		"explained":                     {append(explain, "01ALICE", "--user-subject", "alice", "--pseudonym-key-file", key), 0, "ALLOWED", "note: the record has a pseudonym"},
		"of another subject":            {append(explain, "01ALICE", "--user-subject", "bob", "--pseudonym-key-file", key), 2, "not of this subject under this key", ""},
		"by another key":                {append(explain, "01ALICE", "--user-subject", "alice", "--pseudonym-key-file", other), 2, "not of this subject under this key", ""},
		"without a key":                 {append(explain, "01ALICE", "--user-subject", "alice"), 2, "--call takes it from the record", ""},
		"of one that has a name":        {append(explain, "01BOB", "--user-subject", "bob", "--pseudonym-key-file", key), 2, "no pseudonym for a user", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			code := run(t.Context(), tt.args, nil, &out, &errOut)
			got := out.String() + errOut.String()
			if code != tt.code || !strings.Contains(got, tt.want) || tt.lack != "" && strings.Contains(got, tt.lack) {
				t.Errorf("exit %d, want %d with %q and without %q:\n%s", code, tt.code, tt.want, tt.lack, got)
			}
		})
	}
}
