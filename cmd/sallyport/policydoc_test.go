package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPolicyDocument runs the examples of docs/policy.md: its roles and bindings
// are a policy, its cases pass, and its question is answered.
func TestPolicyDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var policy, cases string
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1) {
		switch text := string(block[1]); {
		case strings.HasPrefix(text, "roles:"), strings.HasPrefix(text, "bindings:"):
			policy += text
		default:
			cases += text
		}
	}
	for name, content := range map[string]string{"policy.yaml": policy, "policy_cases.yaml": cases} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	question := regexp.MustCompile(`(?m)^    (sallyport policy explain --policy (?:.*\\\n)*.*)$`).FindSubmatch(page)
	if question == nil {
		t.Fatal("no question in the page")
	}
	for command, want := range map[string]string{
		"sallyport policy test policy_cases.yaml": "2 passed, 0 failed",
		string(question[1]):                       "ALLOWED: PREDICT on fraud-eu",
	} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte(want)) {
			t.Errorf("%s: %v, want %q in\n%s", command, err, want, out)
		}
	}
}
