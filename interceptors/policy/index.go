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
	// Rows that the call wants to run.
	Rows int64
	// Time of the decision, for conditions.
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
)

var outcomeNames = [...]string{"UNDECIDED", "ALLOWED", "NO_ROLE", "NOT_GRANTED", "CALLER_BLOCKED", "ADDRESS_BLOCKED"}

// String is the outcome in capitals: "NOT_GRANTED".
func (o Outcome) String() string { return outcomeNames[min(int(o), len(outcomeNames)-1)] }

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
}

// Index is a compiled policy. It is safe for concurrent use and does not
// change.
type Index struct {
	policy    *configv1.Policy
	roles     map[string]*role
	callers   callers
	models    [len(actionNames)]models
	addresses addresses

	generation uint64
	digest     string

	// mu guards what is learnt from decisions: the interned grants and the
	// number of grants that are kept in the scopes.
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

// Decide decides on one call. It does not block, and does not allocate once the
// roles of this caller and model have been met before. Blocks win over roles;
// roles add up.
func (ix *Index) Decide(r Request) Decision {
	return ix.decide(r, ix.addresses.blocked(r.Address))
}

// MayEver tells whether the caller may do the action to any model at all, the
// request's model and rows left aside. The Grant is that of all its roles which
// allow the action on some model.
func (ix *Index) MayEver(r Request) Decision {
	s, d := ix.mayEver(r.Caller, r.Action, ix.addresses.blocked(r.Address))
	if d.Allowed {
		d.Grant = ix.grant(s, r.Action, func(of *role) bool { return of.actions.has(r.Action) })
	}
	return d
}

var notGranted = Decision{Outcome: NotGranted, Detail: "no role of the caller allows the action on the model"}

func (ix *Index) decide(r Request, addressBlocked string) Decision {
	s, d := ix.mayEver(r.Caller, r.Action, addressBlocked)
	if !d.Allowed {
		return d
	}
	class := ix.models[r.Action].class(r.Model)
	if class == nil {
		return notGranted
	}
	d.Grant = ix.grant(s, class, func(r *role) bool { return r.allows(class) })
	if d.Grant == nil {
		return notGranted
	}
	return d
}

func (ix *Index) mayEver(caller spiffeid.ID, action Action, addressBlocked string) (*scope, Decision) {
	s := ix.callers.scope(caller)
	if s != nil && s.blocked != "" {
		return nil, Decision{Outcome: CallerBlocked, Detail: s.blocked}
	}
	if addressBlocked != "" {
		return nil, Decision{Outcome: AddressBlocked, Detail: addressBlocked}
	}
	if s == nil || !s.actions.has(None) {
		return nil, Decision{Outcome: NoRole, Detail: "no binding matches the caller"}
	}
	if !s.actions.has(action) {
		return nil, Decision{Outcome: NotGranted, Detail: "no role of the caller allows the action on any model"}
	}
	return s, Decision{Allowed: true, Outcome: Allowed}
}

// grant is what the roles of s give that allow something; nil if none does. The
// key, a *class or an Action, names that something: what grant finds it keeps
// in the scope. Only the first decision of a pair pays for the number of the
// caller's roles.
func (ix *Index) grant(s *scope, key any, allows func(*role) bool) *Grant {
	if g, ok := s.grants.Load(key); ok {
		return g.(*Grant)
	}
	var g *Grant
	seen := make(map[*role]struct{})
	var roles []*role
	for at := s; at != nil; at = at.parent {
		for _, r := range at.roles {
			if _, again := seen[r]; !again && allows(r) {
				seen[r] = struct{}{}
				roles = append(roles, r)
			}
		}
	}
	if len(roles) > 0 {
		g = newGrant(roles)
	}

	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.kept >= ix.maxKept {
		return g
	}
	if g != nil {
		if same, ok := ix.interned[g.Key]; ok {
			g = same
		} else {
			ix.interned[g.Key] = g
		}
	}
	if _, loaded := s.grants.LoadOrStore(key, g); !loaded {
		ix.kept++
	}
	return g
}
