package policy

import (
	"context"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/interpreter"
)

// Kept is how many grants of pairs of scope and class are kept.
func (ix *Index) Kept() int {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.kept
}

// SetMaxKept replaces the bound on them.
func (ix *Index) SetMaxKept(n int) { ix.maxKept = n }

// SetTimes replaces how long a file must hold still and how often Run looks.
func (s *Store) SetTimes(settle, poll time.Duration) { s.settle, s.poll = settle, poll }

// Look returns what Run does each time it looks at the file.
func (s *Store) Look() func(context.Context) (again bool) { return (&watch{store: s}).look }

// panicking is what a condition reads if reading panics.
type panicking struct{}

func (panicking) ResolveName(string) (any, bool) { panic("boom") }
func (panicking) Parent() interpreter.Activation { return nil }

// EvalPanicking evaluates a condition on them.
func EvalPanicking(when string) (bool, error) {
	c, err := newCondition(when)
	if err != nil {
		return false, err
	}
	return c.eval(panicking{})
}

// Steps counts what evaluating a condition takes by CEL's own count, and what the
// estimate says for the request.
func Steps(when string, r Request) (counted, estimated uint64, err error) {
	c, err := newCondition(when)
	if err != nil {
		return 0, 0, err
	}
	env, err := environment()
	if err != nil {
		return 0, 0, err
	}
	checked, issues := env.Compile(when)
	if issues.Err() != nil {
		return 0, 0, issues.Err()
	}
	program, err := env.Program(checked, cel.CostTracking(nil))
	if err != nil {
		return 0, 0, err
	}
	f := &facts{r: r}
	_, details, err := program.Eval(f)
	return *details.ActualCost(), c.costs[f.tier()], err
}

// panicky is a check that panics.
type panicky struct{}

func (panicky) Name() string { return "panicky" }

func (panicky) Validate(*cel.Env, cel.ValidatorConfig, *ast.AST, *cel.Issues) { panic("boom") }

// PanicAtLoad makes compiling a condition panic within CEL, until undo.
func PanicAtLoad() (undo func()) {
	before := environment
	environment = func() (*cel.Env, error) { return cel.NewEnv(cel.ASTValidators(panicky{})) }
	return func() { environment = before }
}
