package policy

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// What a condition sees. The declarations are closed: another name, another
// field or another type is a fault when the policy is loaded.
//
//	caller.id            string     SPIFFE ID: "spiffe://td.test/clinic/triage"
//	caller.trust_domain  string     "td.test"
//	caller.path          string     "/clinic/triage"; empty if the ID has none
//	caller.address       string     IP address, IPv4 never in IPv6 form; an error if it is not known
//	user.present         bool       whether the call is on behalf of a user
//	user.issuer          string     an error without a user, as is all that follows
//	user.subject         string
//	user.groups          list       of strings; an error if the token does not say, as with what follows
//	user.scopes          list       of strings
//	user.amr             list       of strings
//	user.acr             string
//	action               string     "PREDICT", "PREDICT_STREAM", "DESCRIBE" or "INTROSPECT"
//	model                string     name of the model; empty for INTROSPECT
//	rows                 int        rows that the message asks for
//	now                  timestamp  time of the decision; an error if it is not known
//
// has(user.acr) is whether there is a user of whom the token says it.
//
// What is not known is an error and not an empty value, so that a condition that
// forbids something ("!('suspended' in user.groups)") does not hold for a call
// that leaves its user out, nor for a token that leaves its groups out.
//
// Functions and macros are those of CEL's standard library and no more. The
// pattern of matches and a time zone must be literals.

// Bounds on what a condition reads, on which the estimate of its cost rests.
// What exceeds them is an error.
const (
	maxTextBytes = 2048 // of any string
	maxItemBytes = 256  // of an entry of a list
	maxItems     = 1000 // entries of a list
)

// maxProgram bounds what a regular expression is compiled to.
const maxProgram = 1000

var (
	callerType = types.NewObjectType("<caller>") // a name that no expression can say
	userType   = types.NewObjectType("<user>")
	listType   = types.NewListType(types.StringType)
)

// fields are what the objects have.
var fields = map[string]map[string]*types.FieldType{
	callerType.TypeName(): {
		"id":           field(types.StringType, func(f *facts) (ref.Val, error) { return readText(f.r.Caller.String()) }),
		"trust_domain": field(types.StringType, func(f *facts) (ref.Val, error) { return readText(f.r.Caller.TrustDomain().Name()) }),
		"path":         field(types.StringType, func(f *facts) (ref.Val, error) { return readText(f.r.Caller.Path()) }),
		"address":      field(types.StringType, (*facts).address),
	},
	userType.TypeName(): {
		"present": field(types.BoolType, func(f *facts) (ref.Val, error) { return types.Bool(f.r.User != nil), nil }),
		"issuer":  ofUser(types.StringType, func(f *facts) (ref.Val, error) { return readText(f.r.User.Issuer) }),
		"subject": ofUser(types.StringType, func(f *facts) (ref.Val, error) { return readText(f.r.User.Subject) }),
		"groups":  ofUser(listType, func(f *facts) (ref.Val, error) { return readList(&f.groups, f.r.User.Groups) }),
		"scopes":  ofUser(listType, func(f *facts) (ref.Val, error) { return readList(&f.scopes, f.r.User.Scopes) }),
		"amr":     ofUser(listType, func(f *facts) (ref.Val, error) { return readList(&f.amr, f.r.User.AMR) }),
		"acr": ofUser(types.StringType, func(f *facts) (ref.Val, error) {
			if f.r.User.ACR == "" {
				return nil, errNotSaid
			}
			return readText(f.r.User.ACR)
		}),
	},
}

// facts are what the conditions of one decision see, in the form that CEL reads.
type facts struct {
	r                   Request
	groups, scopes, amr ref.Val // nil until they are read
}

var _ interpreter.Activation = (*facts)(nil)

// ResolveName is the variable of that name.
func (f *facts) ResolveName(name string) (any, bool) {
	switch name {
	case "caller", "user":
		return f, true
	case "action":
		return types.String(f.r.Action.String()), true
	case "model":
		v, err := readText(f.r.Model)
		if err != nil {
			return types.WrapErr(fmt.Errorf("model: %w", err)), true
		}
		return v, true
	case "rows":
		return types.Int(f.r.Rows), true
	case "now":
		if f.r.Time.IsZero() {
			return types.NewErr("the time is not known"), true
		}
		return types.Timestamp{Time: f.r.Time}, true
	default:
		return nil, false
	}
}

// Parent is nil: all variables are here.
func (*facts) Parent() interpreter.Activation { return nil }

func (f *facts) address() (ref.Val, error) {
	if !f.r.Address.IsValid() {
		return nil, errors.New("caller.address: the address is not known")
	}
	return types.String(plain(f.r.Address).String()), nil
}

func readText(s string) (ref.Val, error) {
	if len(s) > maxTextBytes {
		return nil, fmt.Errorf("%d bytes are more than the %d that a condition reads", len(s), maxTextBytes)
	}
	return types.String(s), nil
}

func readList(kept *ref.Val, values []string) (ref.Val, error) {
	if *kept != nil {
		return *kept, nil
	}
	if values == nil {
		return nil, errNotSaid
	}
	if len(values) > maxItems {
		return nil, fmt.Errorf("%d entries are more than the %d that a condition reads", len(values), maxItems)
	}
	if slices.ContainsFunc(values, func(s string) bool { return len(s) > maxItemBytes }) {
		return nil, fmt.Errorf("an entry has more than the %d bytes that a condition reads", maxItemBytes)
	}
	*kept = stringList{types.NewStringList(types.DefaultTypeAdapter, values), values}
	return *kept, nil
}

// stringList is a list that finds a string without making a CEL value of every
// entry.
type stringList struct {
	traits.Lister
	values []string
}

// Contains tells whether v is in the list.
func (l stringList) Contains(v ref.Val) ref.Val {
	s, ok := v.(types.String)
	if !ok {
		return l.Lister.Contains(v)
	}
	return types.Bool(slices.Contains(l.values, string(s)))
}

func field(t *types.Type, get func(*facts) (ref.Val, error)) *types.FieldType {
	return &types.FieldType{
		Type:    t,
		GetFrom: func(target any) (any, error) { return get(target.(*facts)) },
		IsSet: func(target any) bool {
			v, err := get(target.(*facts))
			if err != nil {
				return false
			}
			switch v := v.(type) {
			case types.String:
				return v != ""
			case traits.Lister:
				return v.Size() != types.IntZero
			default:
				return v == types.True
			}
		},
	}
}

// ofUser is a field that is an error without a user.
func ofUser(t *types.Type, get func(*facts) (ref.Val, error)) *types.FieldType {
	return field(t, func(f *facts) (ref.Val, error) {
		if f.r.User == nil {
			return nil, errNoUser
		}
		v, err := get(f)
		if err != nil {
			return nil, fmt.Errorf("the user's claims: %w", err)
		}
		return v, nil
	})
}

var (
	errNoUser = errors.New("the call has no user")
	// errNotSaid: what a token leaves out is not known, and who calls may choose what
	// the token says.
	errNotSaid = errors.New("the token does not say")
)

// provider knows the two object types beside CEL's own.
type provider struct{ types.Provider }

// FindStructType is the type of the name.
func (p provider) FindStructType(name string) (*types.Type, bool) {
	switch name {
	case callerType.TypeName():
		return types.NewTypeTypeWithParam(callerType), true
	case userType.TypeName():
		return types.NewTypeTypeWithParam(userType), true
	default:
		return p.Provider.FindStructType(name)
	}
}

// FindStructFieldNames are the fields of the type.
func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	if of, ok := fields[name]; ok {
		var names []string
		for field := range of {
			names = append(names, field)
		}
		slices.Sort(names)
		return names, true
	}
	return p.Provider.FindStructFieldNames(name)
}

// FindStructFieldType is the field of the type.
func (p provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if of, ok := fields[name]; ok {
		t, ok := of[field]
		return t, ok
	}
	return p.Provider.FindStructFieldType(name, field)
}

// environment is made once: it does not change, and takes milliseconds.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	return cel.NewEnv(
		cel.CustomTypeProvider(provider{registry}),
		cel.CustomTypeAdapter(registry),
		cel.Variable("caller", callerType),
		cel.Variable("user", userType),
		cel.Variable("action", types.StringType),
		cel.Variable("model", types.StringType),
		cel.Variable("rows", types.IntType),
		cel.Variable("now", types.TimestampType),
		cel.ParserExpressionSizeLimit(maxConditionBytes),
		cel.ParserRecursionLimit(64),
		cel.ParserErrorRecoveryLimit(4),
		cel.ExpressionNodeLimit(4096),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), plainUse{},
		),
	)
})

// plainUse refuses what type checks and means nothing, or hides a type from the
// check: caller and user as values of their own, objects made in the expression,
// and patterns and time zones that come from a call.
type plainUse struct{}

var _ cel.ASTValidator = plainUse{}

// Name of the validator.
func (plainUse) Name() string { return "sallyport.plain_use" }

// Validate reports the faults.
func (plainUse) Validate(_ *cel.Env, _ cel.ValidatorConfig, checked *ast.AST, issues *cel.Issues) {
	ast.PreOrderVisit(ast.NavigateAST(checked), ast.NewExprVisitor(func(e ast.Expr) {
		at := e.(ast.NavigableExpr)
		switch {
		case at.Kind() == ast.StructKind:
			issues.ReportErrorAtID(at.ID(), "a condition makes no objects")
		case at.Type().Kind() == types.StructKind:
			if in, ok := at.Parent(); !ok || in.Kind() != ast.SelectKind {
				issues.ReportErrorAtID(at.ID(), "name a field of it: %s", quotedFields(at.Type()))
			}
		case at.Kind() == ast.CallKind && at.AsCall().FunctionName() == overloads.Matches:
			args := at.AsCall().Args()
			if err := checkPattern(args[len(args)-1]); err != nil {
				issues.ReportErrorAtID(args[len(args)-1].ID(), "%v", err)
			}
		case at.Kind() == ast.CallKind && at.AsCall().IsMemberFunction() && len(at.AsCall().Args()) == 1 &&
			checked.GetType(at.AsCall().Target().ID()).Kind() == types.TimestampKind:
			if err := checkZone(at.AsCall().Args()[0]); err != nil {
				issues.ReportErrorAtID(at.AsCall().Args()[0].ID(), "%v", err)
			}
		}
	}))
}

// checkPattern refuses a pattern that comes from a call, and one that a repetition
// makes very large. CEL's own check of the latter panics on a repetition.
func checkPattern(pattern ast.Expr) error {
	if pattern.Kind() != ast.LiteralKind {
		return errors.New("the pattern of matches must be a literal")
	}
	size, err := programSize(pattern)
	if err != nil {
		return err
	}
	if size > maxProgram {
		return fmt.Errorf("the pattern of matches makes %d instructions, more than the limit of %d", size, maxProgram)
	}
	return nil
}

// checkZone refuses a time zone that is not there, or comes from a call.
func checkZone(zone ast.Expr) error {
	if zone.Kind() != ast.LiteralKind {
		return errors.New("the time zone must be a literal")
	}
	name, _ := zone.AsLiteral().Value().(string)
	if _, err := time.Parse("-07:00", name); err == nil {
		return nil
	}
	_, err := time.LoadLocation(name)
	return err
}

func quotedFields(t *types.Type) string {
	var names []string
	for name := range fields[t.TypeName()] {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}
