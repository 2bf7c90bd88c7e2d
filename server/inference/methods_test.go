package inference_test

import (
	"testing"

	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/server/inference"
)

// TestEveryActionHasAMethod: a policy cannot allow what nothing asks for. That
// every method has an action is what a server demands at its start.
func TestEveryActionHasAMethod(t *testing.T) {
	asked := make(map[policy.Action]bool)
	for _, methods := range [][]interceptors.Method{new(inference.Service).Methods(), server.StandardMethods()} {
		for _, m := range methods {
			asked[m.Action] = true
		}
	}
	for a := policy.None + 1; ; a++ {
		if _, err := policy.ParseAction(a.String()); err != nil {
			break
		}
		if !asked[a] {
			t.Errorf("no method asks for %s", a)
		}
		delete(asked, a)
	}
	if len(asked) > 0 {
		t.Errorf("methods ask for %v, which no policy can allow", asked)
	}
}
