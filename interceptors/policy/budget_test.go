package policy_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/interceptors/policy"
)

const budgets = `
roles:
  - name: trial
    rules: [{actions: [PREDICT], models: [a, b]}]
    limits:
      requests_per_second: 1
      rows_per_second: 1
      budgets: [{period: DAY, rows: 100, model_time: 60s}, {period: MONTH, rows: 1000, bytes: 5000}]
  - name: paid
    rules: [{actions: [PREDICT], models: [a, c]}]
    limits:
      requests_per_second: 1
      rows_per_second: 1
      on_store_failure: LOCAL
      budgets: [{period: MONTH, rows: 3000, bytes: 4000, model_time: 3600s}]
  - name: free
    rules: [{actions: [PREDICT], models: [c]}]
    limits: {requests_per_second: 1, rows_per_second: 1, on_store_failure: REFUSE}
bindings:
  - {role: trial, callers: ["spiffe://td.test/x"]}
  - {role: paid, callers: ["spiffe://td.test/x"]}
  - {role: free, callers: ["spiffe://td.test/x"]}
`

func grantOn(t *testing.T, ix *policy.Index, model string) *policy.Grant {
	t.Helper()
	d := ix.Decide(policy.Request{Caller: spiffeid.RequireFromString("spiffe://td.test/x"), Action: policy.Predict, Model: model})
	if d.Grant == nil {
		t.Fatalf("refused: %+v", d)
	}
	return d.Grant
}

// Of several roles the most generous holds: no budget is more generous than any,
// and counting alone than refusing.
func TestBudgetsOfRoles(t *testing.T) {
	ix := compile(t, budgets)
	for _, tt := range []struct {
		model      string
		day, month policy.Budget
		alone      bool
		text       []string
	}{
		{"b", policy.Budget{Rows: 100, ModelTime: time.Minute}, policy.Budget{Rows: 1000, Bytes: 5000}, false,
			[]string{"100 rows, 1m0s of model time a day", "1000 rows, 5000 bytes a month"}},
		{"a", policy.Budget{}, policy.Budget{Rows: 3000, Bytes: 5000}, true, []string{"3000 rows, 5000 bytes a month"}},
		{"c", policy.Budget{}, policy.Budget{}, true, nil},
	} {
		l := grantOn(t, ix, tt.model).Limits
		if l.Day != tt.day || l.Month != tt.month || l.Alone != tt.alone || !slices.Equal(l.Budgets(), tt.text) {
			t.Errorf("%s: %+v, %q", tt.model, l, l.Budgets())
		}
	}
	if got := ix.Budgeted(); !slices.Equal(got, []string{"paid", "trial"}) {
		t.Errorf("roles with budgets: %q", got)
	}
	if diff := cmp.Diff(policy.Limits{}, ix.RoleLimits("nobody")); diff != "" {
		t.Error(diff)
	}
	e := ix.Explain(policy.Request{Caller: spiffeid.RequireFromString("spiffe://td.test/x"), Action: policy.Predict, Model: "a"}).String()
	for _, want := range []string{"  budget    3000 rows, 5000 bytes a month", "each replica counts for itself"} {
		if !strings.Contains(e, want) {
			t.Errorf("no %q in\n%s", want, e)
		}
	}
}

// A difference of budgets is one of the role, and named.
func TestDiffOfBudgets(t *testing.T) {
	after := strings.NewReplacer("period: DAY, rows: 100,", "period: DAY,", "on_store_failure: REFUSE", "on_store_failure: LOCAL").Replace(budgets)
	var b strings.Builder
	if err := policy.Compare(compile(t, budgets), compile(t, after)).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"budget a day 100 rows, 1m0s of model time → 1m0s of model time",
		"counts alone while the store is away false → true",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// A policy that is good and does not fit the server is refused like a bad one, at
// the start and later.
func TestPolicyMustFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(yaml string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unfit := errors.New("it does not fit")
	fits := func(ix *policy.Index) error {
		if len(ix.Budgeted()) > 0 {
			return unfit
		}
		return nil
	}
	log := slog.New(slog.DiscardHandler)
	write(budgets)
	if _, err := policy.NewStore(path, log, nil, fits); !errors.Is(err, unfit) {
		t.Errorf("at the start: %v", err)
	}
	write(forModel("m"))
	s, err := policy.NewStore(path, log, nil, fits)
	if err != nil {
		t.Fatal(err)
	}
	write(budgets)
	if err := s.Reload(); !errors.Is(err, unfit) || !errors.Is(s.LastError(), unfit) || !allows(s.Load(), "m") {
		t.Errorf("reloaded: %v, %v", err, s.LastError())
	}
}
