package policy

import (
	"math"
	"regexp/syntax"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// tiers are lengths of the user's longest list, for each of which the cost of a
// condition is estimated.
var tiers = [...]uint64{10, 100, maxItems}

// tier is the tier of the request's user.
func (f *facts) tier() int {
	if f.r.User == nil {
		return 0
	}
	longest := uint64(max(len(f.r.User.Groups), len(f.r.User.Scopes), len(f.r.User.AMR)))
	for i, items := range tiers {
		if longest <= items {
			return i
		}
	}
	return len(tiers) - 1 // to read such a list is an error
}

// estimate is how many steps the expression takes at most if the user's lists
// have so many items.
func estimate(env *cel.Env, checked *cel.Ast, items uint64) (uint64, error) {
	of, err := env.EstimateCost(checked, sizes{items})
	return of.Max, err
}

// sizes tells CEL's estimate how large what a condition reads can be, and what
// CEL holds for cheaper than it is.
type sizes struct{ items uint64 }

var _ checker.CostEstimator = sizes{}

const (
	// zoneCost is for reading a file of the time zone database.
	zoneCost = 200
	// listEqualCost is for comparing two lists entry by entry.
	listEqualCost = 2 * maxItems
)

// EstimateSize is known for the declared variables and for nothing else: what an
// expression makes of them may be larger.
func (s sizes) EstimateSize(of checker.AstNode) *checker.SizeEstimate {
	path := of.Path()
	if len(path) == 1 && (path[0] == "model" || path[0] == "action") {
		return &checker.SizeEstimate{Max: maxTextBytes}
	}
	if len(path) < 2 || path[0] != "caller" && path[0] != "user" {
		return nil
	}
	field := fields["<"+path[0]+">"][path[1]]
	switch {
	case field == nil:
	case len(path) == 2 && field.Type == listType:
		return &checker.SizeEstimate{Max: s.items}
	case len(path) == 2 && field.Type == types.StringType:
		return &checker.SizeEstimate{Max: maxTextBytes}
	case len(path) == 3 && field.Type == listType && path[2] == "@items":
		return &checker.SizeEstimate{Max: maxItemBytes}
	}
	return nil
}

// EstimateCallCost is nil for functions of which CEL's estimate is good.
func (s sizes) EstimateCallCost(function, _ string, target *checker.AstNode, args []checker.AstNode) *checker.CallEstimate {
	switch {
	case function == overloads.Matches:
		subject := args[0]
		if target != nil {
			subject = *target
		}
		return s.matches(subject, args[len(args)-1])
	case function == operators.Equals || function == operators.NotEquals:
		if kind := args[0].Type().Kind(); kind == types.ListKind || kind == types.MapKind || kind == types.DynKind {
			return &checker.CallEstimate{CostEstimate: checker.CostEstimate{Max: listEqualCost}}
		}
	case target != nil && (*target).Type().Kind() == types.TimestampKind && len(args) == 1:
		return &checker.CallEstimate{CostEstimate: checker.FixedCostEstimate(zoneCost)}
	}
	return nil
}

// matches costs the length of the subject times the size of the pattern's
// program, which a repetition makes much larger than the pattern.
func (s sizes) matches(subject, pattern checker.AstNode) *checker.CallEstimate {
	length := uint64(math.MaxUint64)
	if size := subject.ComputedSize(); size != nil {
		length = size.Max
	} else if size := s.EstimateSize(subject); size != nil {
		length = size.Max
	}
	size, err := programSize(pattern.Expr())
	if err != nil {
		return nil // plainUse has refused it
	}
	return &checker.CallEstimate{CostEstimate: checker.SizeEstimate{Max: length}.MultiplyByCostFactor(float64(size) / instructionsAStep)}
}

// instructionsAStep is how many instructions of a regular expression are run on
// one byte in the time of a step.
const instructionsAStep = 16

// programSize is the number of instructions of a literal regular expression.
func programSize(pattern ast.Expr) (int, error) {
	literal, _ := pattern.AsLiteral().Value().(string)
	parsed, err := syntax.Parse(literal, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, err
	}
	return len(program.Inst), nil
}
