// Package policy decides who may do what to which model. A policy is compiled
// into an index, so that a decision costs the same with ten rules or ten
// thousand.
//
// Patterns nest, on both sides: the callers that a pattern matches lie within
// those of a wider one or apart from them, and so do the models. So everything
// that matches a caller hangs on the one narrowest pattern that does, its
// scope; everything that matches a model on its class. A decision finds the
// two and looks up what they give together.
package policy

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity"
)

// Request is what is to be decided.
type Request struct {
	// Caller is the proved identity; the zero ID may do nothing.
	Caller spiffeid.ID
	// Address is where the call comes from. Unknown (the zero Addr) is refused
	// if the policy blocks any address.
	Address netip.Addr
	// User is on whose behalf the caller calls; nil for itself.
	User *identity.User
	// Action is what the caller wants to do.
	Action Action
	// Model is the name of the model; None and Introspect do not look at it.
	Model string
	// Rows that the call wants to run, for conditions.
	Rows int64
	// Time of the decision, for conditions; the zero Time is not known.
	Time time.Time
}

// Outcome is how a decision came out. The zero value is none of them.
type Outcome uint8

const (
	// Allowed: a role of the caller allows the call.
	Allowed Outcome = iota + 1
	// NoRole: no binding matches the caller.
	NoRole
	// NotGranted: the caller has roles, and none allows the call.
	NotGranted
	// CallerBlocked: the caller is blocked, whatever its roles.
	CallerBlocked
	// AddressBlocked: the address is blocked, whatever the caller's roles.
	AddressBlocked
	// UserMismatch: bindings match the caller, and all ask for a user that is not
	// the call's, or for any where the call has none.
	UserMismatch
	// ConditionFailed: no role allows the call, and a condition that might have
	// could not be evaluated.
	ConditionFailed
)

var outcomeNames = [...]string{
	"UNDECIDED", "ALLOWED", "NO_ROLE", "NOT_GRANTED", "CALLER_BLOCKED", "ADDRESS_BLOCKED", "USER_MISMATCH", "CONDITION_FAILED",
}

// String is the outcome in capitals: "NOT_GRANTED".
func (o Outcome) String() string {
	if int(o) >= len(outcomeNames) {
		return outcomeNames[0]
	}
	return outcomeNames[o]
}

// MarshalText is String, for JSON.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Decision is the answer to a Request.
type Decision struct {
	// Allowed is whether Outcome is Allowed.
	Allowed bool
	// Outcome is how the decision came out.
	Outcome Outcome
	// Grant is what the caller's roles give; nil unless allowed.
	Grant *Grant
	// Detail is why it was refused, for the operator and never for the caller;
	// empty if allowed.
	Detail string
	// Impersonal is Detail without what the error of a condition may show of the
	// call's values, the user's subject among them; empty where Detail shows none.
	Impersonal string
}

// Index is a compiled policy. It is safe for concurrent use and does not
// change.
type Index struct {
	policy    *configv1.Policy
	roles     map[string]*role
	callers   callers
	models    [len(actionNames)]models
	addresses addresses
	// conditions are by their expression.
	conditions map[string]*condition

	generation uint64
	digest     string

	// mu guards what is learnt from decisions: the interned grants, and how much is
	// kept in the scopes: plans, the roles in them, and the grants of their sets.
	mu       sync.Mutex
	interned map[string]*Grant
	kept     int
	maxKept  int
}

// maxKept bounds the memory of what is learnt from decisions. A caller cannot
// make up scopes or classes; the bound is for a policy with very many of both.
const maxKept = 1 << 20

// Generation counts the policies that a Store has put in force, from 1; it is 0
// for an Index that no Store has loaded.
func (ix *Index) Generation() uint64 { return ix.generation }

// Digest is the SHA-256 of the policy's file in lower-case hexadecimal; empty
// for an Index that no Store has loaded.
func (ix *Index) Digest() string { return ix.digest }

// Issuers are those that vouch for the users whom bindings ask for, each once,
// sorted.
func (ix *Index) Issuers() []string {
	var issuers []string
	for _, b := range ix.policy.GetBindings() {
		if u := b.GetUser(); u != nil {
			issuers = append(issuers, u.GetIssuer())
		}
	}
	slices.Sort(issuers)
	return slices.Compact(issuers)
}

// Decide decides on one call. It does not block, and does not allocate once the
// roles of this caller and model have been met before, unless one of them has a
// condition. Blocks win over roles; roles add up. A role counts if a binding
// gives it to the caller, for this user if the binding asks for one, and a rule
// of it allows the action on the model and has no condition or one that is true.
func (ix *Index) Decide(r Request) Decision {
	return ix.decide(r, ix.addresses.blocked(r.Address))
}

// MayEver tells whether the caller, for this user, may do the action to any model
// at all, the request's model and rows left aside: a condition might hold for
// some. The Grant is that of all its roles which allow the action on some model.
// It is for what is decided before the message is known. Introspect is about no
// model and no rows, so that all is known of it: for it, MayEver is Decide.
func (ix *Index) MayEver(r Request) Decision {
	if r.Action == Introspect {
		return ix.Decide(r)
	}
	s, d := ix.enter(r, ix.addresses.blocked(r.Address))
	if s == nil {
		return d
	}
	return ix.settle(s, ix.ever(s, r.Action), r)
}

// ever is the plan for the action on any model, conditions left aside.
func (ix *Index) ever(s *scope, a Action) *plan {
	return ix.plan(s, a, func(r *role) (bool, []when) { return r.actions.has(a), nil })
}

func (ix *Index) decide(r Request, addressBlocked string) Decision {
	s, d := ix.enter(r, addressBlocked)
	if s == nil {
		return d
	}
	class := ix.models[r.Action].class(r.Model)
	if class == nil {
		return ix.refuse(s, r, notGranted)
	}
	return ix.settle(s, ix.plan(s, class, func(r *role) (bool, []when) { return r.allows(class) }), r)
}

var notGranted = Decision{Outcome: NotGranted, Detail: "no role of the caller allows the action on the model"}

// enter decides what caller and action alone decide. The scope is nil if that
// is all.
func (ix *Index) enter(r Request, addressBlocked string) (*scope, Decision) {
	s := ix.callers.scope(r.Caller)
	if s != nil && s.blocked != "" {
		return nil, Decision{Outcome: CallerBlocked, Detail: s.blocked}
	}
	if addressBlocked != "" {
		return nil, Decision{Outcome: AddressBlocked, Detail: addressBlocked}
	}
	if s == nil || !s.actions.has(None) {
		return nil, Decision{Outcome: NoRole, Detail: "no binding matches the caller"}
	}
	if !s.actions.has(r.Action) {
		return nil, ix.refuse(s, r, Decision{Outcome: NotGranted, Detail: "no role of the caller allows the action on any model"})
	}
	return s, Decision{}
}

// settle decides by a plan of the scope.
func (ix *Index) settle(s *scope, p *plan, r Request) Decision {
	if len(p.maybe) == 0 {
		if p.always == nil {
			return ix.refuse(s, r, notGranted)
		}
		return Decision{Allowed: true, Outcome: Allowed, Grant: p.always}
	}
	d := p.decide(ix, r)
	if !d.Allowed {
		return ix.refuse(s, r, d)
	}
	return d
}

var userMismatch = Decision{Outcome: UserMismatch, Detail: "bindings match the caller, and all ask for another user than the call's"}

// refuse is d, unless no binding gives the caller a role on behalf of this user.
func (ix *Index) refuse(s *scope, r Request, d Decision) Decision {
	if s.alone {
		return d
	}
	if r.User != nil {
		var few [8]int32
		if len(ix.ever(s, None).candidates(r.User, few[:0])) > 0 {
			return d
		}
	}
	return userMismatch
}
