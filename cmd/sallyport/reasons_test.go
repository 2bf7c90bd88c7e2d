package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestRecordReasons holds the reasons that audit show takes to those there are.
func TestRecordReasons(t *testing.T) {
	for path, pattern := range map[string]string{
		"../../interceptors/refusal.go": `Reason = "([A-Z_]+)"`,
		"../../docs/errors.md":          "^\\| [A-Z_]+ \\| `([A-Z_]+)` \\|",
	} {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, match := range regexp.MustCompile(`(?m)`+pattern).FindAllSubmatch(source, -1) {
			want = append(want, string(match[1]))
		}
		if len(want) < 20 {
			t.Errorf("%s: %d reasons found", path, len(want))
		}
		for _, reason := range want {
			if !slices.Contains(recordReasons, reason) {
				t.Errorf("%s has the reason %s, which audit show does not know", path, reason)
			}
		}
		for _, reason := range recordReasons {
			ofHandshake := slices.Contains([]string{identityRejected, serverRejected, handshakeUnfinished, tooManyConnections}, reason)
			if !ofHandshake && !slices.Contains(want, reason) {
				t.Errorf("audit show knows the reason %s, which %s has not", reason, path)
			}
		}
	}
}
