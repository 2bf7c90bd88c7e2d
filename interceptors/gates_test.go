package interceptors_test

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
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
		"audit":     {"NaN", "caller without a role"},
		"deadline":  {"server's deadline"},
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
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("the process survived:\n%s", out)
	}
}

// TestNewRefusesWhatIsMissing shows that a chain without one of its parts cannot
// be made.
func TestNewRefusesWhatIsMissing(t *testing.T) {
	if _, err := interceptors.New(interceptors.Config{}); err == nil {
		t.Error("a chain of nothing was made")
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
