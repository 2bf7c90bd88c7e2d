package policy

import (
	"fmt"
	"slices"
	"strings"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// Action is what a caller does. The values from Predict on are those of the
// configuration's Action.
type Action uint8

const (
	// None needs no permission on any model: to be bound to any role is enough.
	// It is for what every caller may know, such as overall health.
	None Action = iota
	// Predict runs a model, unary.
	Predict
	// PredictStream runs a model over a stream of batches.
	PredictStream
	// Describe shows that a model exists, its signature and its versions.
	Describe
	// Introspect uses reflection and sees the health of single services. It is
	// not about a model: the models of a rule do not narrow it.
	Introspect
)

var actionNames = [...]string{
	None:          "NONE",
	Predict:       configv1.Action_PREDICT.String(),
	PredictStream: configv1.Action_PREDICT_STREAM.String(),
	Describe:      configv1.Action_DESCRIBE.String(),
	Introspect:    configv1.Action_INTROSPECT.String(),
}

// String is the action's name in a policy: "PREDICT".
func (a Action) String() string {
	if int(a) >= len(actionNames) {
		return fmt.Sprintf("Action(%d)", uint8(a))
	}
	return actionNames[a]
}

// ParseAction is the action that String names so, whatever the case.
func ParseAction(s string) (Action, error) {
	i := slices.IndexFunc(actionNames[:], func(name string) bool { return strings.EqualFold(name, s) })
	if i < 0 {
		return None, fmt.Errorf("unknown action %q; there are %s", s, strings.Join(actionNames[:], ", "))
	}
	return Action(i), nil //nolint:gosec // i is an index of actionNames
}

// actions is a set of actions, a bit for each.
type actions uint8

// has is false for what is no action.
func (s actions) has(a Action) bool       { return s&(1<<a) != 0 }
func (s actions) with(a Action) actions   { return s | 1<<a }
func (s actions) union(t actions) actions { return s | t }
