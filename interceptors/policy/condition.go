package policy

import (
	"fmt"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// What conditions may cost, in CEL's unit: a step of an evaluation, some 50 ns.
// Before one is evaluated it is known how much it can cost at most, for lists as
// long as this user's: the estimate. That is cheaper by far than to count the steps
// as they are made, which triples the time of a short expression and takes time
// quadratic in the length of a list.
const (
	// maxConditionBytes is the longest expression, as in the schema.
	maxConditionBytes = 2048
	// maxCost is the highest estimate, for the longest lists, at which a condition
	// is accepted. A walk over a list is far below it, a walk for each entry of
	// another list far above.
	maxCost = 250_000
	// maxDecisionCost is the highest sum of estimates in one decision. A condition
	// that would exceed it is not evaluated; that is an error.
	maxDecisionCost = 500_000
	// evaluationCost is for one evaluation, however little it evaluates.
	evaluationCost = 10
)

// maxDetailBytes bounds what a refusal says of an error.
const maxDetailBytes = 256

// condition is a CEL expression, compiled. Rules with the same expression share
// it. It is safe for concurrent use.
type condition struct {
	program cel.Program
	costs   [len(tiers)]uint64 // at most, for each tier
}

// newCondition compiles and checks an expression. The error shows the place in
// it. A panic in CEL is an error: the policy may be a reload of a running server.
func newCondition(expression string) (_ *condition, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%q: internal error: %v", clip(expression, maxDetailBytes), r)
		}
	}()
	if len(expression) > maxConditionBytes {
		return nil, fmt.Errorf("%d bytes are more than the %d of a condition", len(expression), maxConditionBytes)
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("CEL environment: %w", err)
	}
	checked, issues := env.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	if t := checked.OutputType(); t != types.BoolType {
		return nil, fmt.Errorf("%q is of type %s, not bool", expression, cel.FormatCELType(t))
	}
	c := &condition{}
	for i, items := range tiers {
		cost, err := estimate(env, checked, items)
		if err != nil {
			return nil, fmt.Errorf("estimate the cost: %w", err)
		}
		c.costs[i] = cost
	}
	if cost := c.costs[len(tiers)-1]; cost > maxCost {
		return nil, fmt.Errorf("%q may take %d steps for a user with %d groups, more than the limit of %d: does it walk over a list for each entry of another?",
			expression, cost, maxItems, maxCost)
	}
	c.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// eval is the value of the condition; false with an error. A panic in the
// evaluation is an error.
func (c *condition) eval(f interpreter.Activation) (bool, error) {
	out, _, err := c.program.Eval(f)
	if err != nil {
		return false, err
	}
	return out == types.True, nil
}

// conditions evaluates the conditions of one decision, each once.
type conditions struct {
	facts facts
	first *condition // the one evaluated first, which mostly is the only one
	value evaluated  // of first
	known map[*condition]evaluated
	spent uint64 // the sum of estimates
}

type evaluated struct {
	value bool
	err   error
}

func (c *conditions) eval(of *condition) (bool, error) {
	if c.first == of {
		return c.value.value, c.value.err
	}
	if k, ok := c.known[of]; ok {
		return k.value, k.err
	}
	var k evaluated
	if c.spent += evaluationCost + of.costs[c.facts.tier()]; c.spent > maxDecisionCost {
		k.err = errCostly
	} else {
		k.value, k.err = of.eval(&c.facts)
	}
	switch {
	case c.first == nil:
		c.first, c.value = of, k
	case c.known == nil:
		c.known = map[*condition]evaluated{of: k}
	default:
		c.known[of] = k
	}
	return k.value, k.err
}

var errCostly = fmt.Errorf("the conditions of this call may take more than %d steps together", maxDecisionCost)

// clip shortens what is told to the operator, and makes it printable: an error may
// repeat what a token says.
func clip(s string, n int) string {
	s = printable(s)
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// compiled is a condition, or why it is none.
type compiled struct {
	condition *condition
	err       error
}

// conditions compiles each expression of the policy once.
func (c *compiler) conditions(p *configv1.Policy) {
	c.whens = make(map[string]compiled)
	c.ix.conditions = make(map[string]*condition)
	for _, role := range p.GetRoles() {
		for _, rule := range role.GetRules() {
			if when := rule.GetWhen(); when != "" {
				if _, known := c.whens[when]; !known {
					made, err := newCondition(when)
					c.whens[when] = compiled{made, err}
					c.ix.conditions[when] = made
				}
			}
		}
	}
}
