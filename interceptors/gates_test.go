package interceptors_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// row is a case of the table of refusals.
func row(t *testing.T, name string) refused {
	t.Helper()
	i := slices.IndexFunc(refusedCalls, func(c refused) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("no case %q", name)
	}
	return refusedCalls[i]
}

// TestEveryGateIsNeeded takes the gates out of the chain, one at a time, and
// demands that the table of refusals notices, in both forms.
func TestEveryGateIsNeeded(t *testing.T) {
	notices := map[string][]string{
		"audit": {"NaN", "caller without a role"},

		"identify":  {"no identity", "SVID expired on a live connection"},
		"authorize": {"model not granted", "caller without a role", "caller blocked on a live connection"},
		"quota":     {"rows used up", "rows claimed that were not sent"},
		"validate":  {"model name too long", "output named twice", "body that is not Protobuf"},
	}
	w := newWorld(t, worldOptions{})
	for _, s := range w.chain.Stages() {
		if s.Place == "" {
			t.Errorf("stage %q does not say why it stands where it stands", s.Name)
		}
		if s.Name == "recover" {
			continue // TestRecoverIsNeeded
		}
		if len(notices[s.Name]) == 0 {
			t.Errorf("no case shows that stage %q is needed", s.Name)
		}
		for _, name := range notices[s.Name] {
			for _, form := range []string{"unary", "stream"} {
				t.Run(s.Name+"/"+form+"/"+name, func(t *testing.T) {
					t.Parallel()
					c := row(t, name)
					c.world.without = []string{s.Name}
					c.timeout = 2 * time.Second
					w := newWorld(t, c.world)
					if len(c.faults(t, w, c.attempt(t, w, form == "stream"))) == 0 {
						t.Errorf("the case passes without the stage")
					}
				})
			}
		}
	}
}

// TestRecoverIsNeeded runs the panicking call in a process of its own, which
// ends without the stage.
func TestRecoverIsNeeded(t *testing.T) {
	const child = "SALLYPORT_TEST_WITHOUT_RECOVER"
	if os.Getenv(child) != "" {
		c := row(t, "panic in the handler")
		c.world.without = []string{"recover"}
		c.attempt(t, newWorld(t, c.world), false)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRecoverIsNeeded$")
	cmd.Env = append(os.Environ(), child+"=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "panic: a secret of the handler") {
		t.Errorf("the process did not end of the panic: %v\n%s", err, out)
	}
}

// TestNewRefusesWhatIsMissing takes the parts of a chain away, one at a time.
func TestNewRefusesWhatIsMissing(t *testing.T) {
	w := newWorld(t, worldOptions{})
	if _, err := interceptors.New(w.cfg); err != nil {
		t.Fatal(err)
	}
	for part, take := range map[string]func(*interceptors.Config){
		"Methods":           func(c *interceptors.Config) { c.Methods = nil },
		"Policy":            func(c *interceptors.Config) { c.Policy = nil },
		"Quota":             func(c *interceptors.Config) { c.Quota = nil },
		"Audit":             func(c *interceptors.Config) { c.Audit = nil },
		"Digester":          func(c *interceptors.Config) { c.Digester = nil },
		"Log":               func(c *interceptors.Config) { c.Log = nil },
		"MaxMessageBytes":   func(c *interceptors.Config) { c.MaxMessageBytes = 0 },
		"MaxCallDuration":   func(c *interceptors.Config) { c.MaxCallDuration = 0 },
		"MaxStreamDuration": func(c *interceptors.Config) { c.MaxStreamDuration = 0 },
		"no action":         func(c *interceptors.Config) { c.Methods = slices.Clone(c.Methods); c.Methods[0].Action = policy.None },
		"make its request":  func(c *interceptors.Config) { c.Methods = slices.Clone(c.Methods); c.Methods[0].New = nil },
	} {
		cfg := w.cfg
		take(&cfg)
		if _, err := interceptors.New(cfg); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("without %s: %v", part, err)
		}
	}
}

// TestPermissionBeforeExistence shows that a caller cannot tell a model it may
// not use from one that does not exist.
func TestPermissionBeforeExistence(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage"))
	var texts []string
	for _, name := range []string{"digits", "secret-model"} {
		_, err := client.Predict(t.Context(), modelOf(name))
		if err == nil {
			t.Fatalf("model %q was run", name)
		}
		texts = append(texts, err.Error())
	}
	if texts[0] != texts[1] {
		t.Errorf("two answers: %q and %q", texts[0], texts[1])
	}
}
