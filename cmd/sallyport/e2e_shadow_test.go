package main_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// A shadow policy is counted and recorded, read again when it changes, and a bad
// one changes nothing. It never decides.
func TestShadow(t *testing.T) {
	dir := newSite(t, "")
	write(t, dir+"/sallyport.yaml", strings.Replace(config, "file: policy.yaml", "file: policy.yaml\n  shadow_file: next.yaml", 1))
	nobody := strings.Replace(generous, "sallyport.test/clinic/*", "sallyport.test/other/*", 1)
	write(t, dir+"/next.yaml", nobody)
	s := startServe(t, dir)
	clinic, intern := s.as(t, "clinic"), s.as(t, "intern")
	differences := func(would string) float64 {
		return s.metrics(t).value("sallyport_shadow_differences_total", "would", would)
	}
	call := func(c *caller, want codes.Code) (id string) {
		t.Helper()
		id, err := c.predict(t.Context(), breastCancer)
		if status.Code(err) != want {
			t.Fatalf("answered with %v, want %v", err, want)
		}
		return id
	}
	denies := call(clinic, codes.OK)
	if n := differences("deny"); n != 1 {
		t.Errorf("%v decisions that would deny", n)
	}

	replace(t, dir+"/next.yaml", strings.Replace(generous, "clinic/*", "*", 1))
	eventually(t, func() error {
		if g := s.metrics(t).value("sallyport_shadow_generation"); g != 2 {
			return fmt.Errorf("generation %v", g)
		}
		return nil
	})
	allows := call(intern, codes.PermissionDenied)
	if n := differences("allow"); n != 1 {
		t.Errorf("%v decisions that would allow", n)
	}

	replace(t, dir+"/next.yaml", "roles: [")
	s.says(t, `level=ERROR msg="shadow policy refused; decisions are compared with the one before"`)
	if stale := s.metrics(t).value("sallyport_shadow_stale"); stale != 1 {
		t.Errorf("sallyport_shadow_stale %v", stale)
	}
	if _, body, err := s.get(t.Context(), "/readyz"); err != nil || !strings.Contains(body, "shadow generation 2, shadow stale: ") {
		t.Errorf("/readyz: %v\n%s", err, body)
	}
	agrees := call(clinic, codes.OK)

	shadows := map[string]*auditv1.Shadow{}
	for _, r := range s.records(t) {
		shadows[r.GetCallId()] = r.GetShadow()
	}
	for id, want := range map[string]string{denies: "NO_ROLE", allows: "ALLOWED", agrees: "ALLOWED"} {
		if got := shadows[id]; got.GetDecision() != want || len(got.GetPolicyDigest()) != 64 {
			t.Errorf("shadow on record %v, want %s", got, want)
		}
	}
	if d := shadows[denies]; d.GetWouldDeny() != 1 || d.GetDetail() == "" {
		t.Errorf("shadow on record %v", d)
	}
}
