package main_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// quotaAccounts are what `quota show --json` prints of them, by caller and limit.
func quotaAccounts(t *testing.T, s *server, more ...string) map[string]map[string][2]int64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sallyport",
		append([]string{"quota", "show", "--json", "--admin", s.admin}, more...)...).Output()
	if err != nil {
		t.Fatalf("quota show: %v\n%s", err, stderrOf(err))
	}
	var page struct {
		Accounts []struct {
			Caller string
			Limits []struct {
				Limit      string
				Used, Left int64
			}
		}
	}
	if err := json.Unmarshal(out, &page); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]map[string][2]int64)
	for _, a := range page.Accounts {
		found[a.Caller] = make(map[string][2]int64)
		for _, l := range a.Limits {
			found[a.Caller][l.Limit] = [2]int64{l.Used, l.Left}
		}
	}
	return found
}

func stderrOf(err error) string {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(e.Stderr)
	}
	return ""
}

// The operator sees who has used how much, without a store.
func TestQuotaShow(t *testing.T) {
	dir := newSite(t, "")
	write(t, dir+"/policy.yaml", strings.NewReplacer("1e6", "0.001, request_burst: 10", "1e9", "0.001, row_burst: 100").Replace(generous))
	s := startServe(t, dir)
	clinic, ward := s.as(t, "clinic"), s.as(t, "ward-batch")
	for range 3 {
		request := &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(5)}
		if _, err := clinic.Predict(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = ward.predict(t.Context(), breastCancer) // it may have no role
	got := quotaAccounts(t, s, "--caller", "spiffe://sallyport.test/clinic/*")
	const id = "spiffe://sallyport.test/clinic/triage"
	if len(got) == 0 || got[id]["requests"] != [2]int64{3, 7} || got[id]["rows"] != [2]int64{15, 85} || got[id]["streams"] != [2]int64{0, 64} {
		t.Errorf("%v", got)
	}
	if got := quotaAccounts(t, s, "--caller", "spiffe://sallyport.test/nobody"); len(got) != 0 {
		t.Errorf("of nobody: %v", got)
	}
	out, err := exec.CommandContext(t.Context(), "sallyport", "quota", "show", "--admin", s.admin).Output()
	if err != nil || !strings.Contains(string(out), "CALLER") || !strings.Contains(string(out), id) {
		t.Errorf("%v:\n%s", err, out)
	}
	for args, want := range map[string]string{
		"--admin 127.0.0.1:1": "nobody listens at 127.0.0.1:1; is the server running",
		"--limit 0":           "--limit 0: must be 1 to 1000",
	} {
		out, err := exec.CommandContext(t.Context(), "sallyport", append([]string{"quota", "show"}, strings.Fields(args)...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v: %s", args, err, out)
		}
	}
	if ready := readyz(t, s); !strings.Contains(ready, "quota: ok: counted in this process\n") {
		t.Errorf("/readyz:\n%s", ready)
	}
}

// readyz is the page, whatever its status.
func readyz(t *testing.T, s *server) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.admin+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}
