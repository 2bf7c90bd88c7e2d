package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// Explanation is the whole story of a decision, for the operator.
type Explanation struct {
	// Caller, Address, Action and Model are the request. Address is empty if
	// none was given; blocked ranges were not looked at then.
	Caller  string `json:"caller"`
	Address string `json:"address,omitempty"`
	Action  string `json:"action"`
	Model   string `json:"model,omitempty"`
	// Allowed, Outcome and Detail are what Decide says.
	Allowed bool    `json:"allowed"`
	Outcome Outcome `json:"outcome"`
	Detail  string  `json:"detail,omitempty"`
	// Blocks are the entries of blocked that match.
	Blocks []MatchedBlock `json:"blocks,omitempty"`
	// Bindings are those that match the caller.
	Bindings []MatchedBinding `json:"bindings,omitempty"`
	// Rules are all rules of the roles so bound, with what became of each.
	Rules []ConsideredRule `json:"rules,omitempty"`
	// Grant is what the matching roles give; nil unless allowed.
	Grant *Grant `json:"grant,omitempty"`
	// Suggestions name what comes nearest to allowing a call that was refused.
	Suggestions []string `json:"suggestions,omitempty"`
}

// MatchedBlock is a pattern or range of a block that matches.
type MatchedBlock struct {
	// Index is the block's position in the policy, from 0.
	Index int `json:"index"`
	// Pattern is the pattern of callers or the range of addresses.
	Pattern string `json:"pattern"`
	// Reason is the reason given in the policy.
	Reason string `json:"reason"`
}

// MatchedBinding is a pattern of a binding that matches the caller.
type MatchedBinding struct {
	// Index is the binding's position in the policy, from 0.
	Index int `json:"index"`
	// Role is the role bound.
	Role string `json:"role"`
	// Pattern is the pattern of callers.
	Pattern string `json:"pattern"`
}

// ConsideredRule is a rule of a role that the caller has.
type ConsideredRule struct {
	// Role is the name of the role.
	Role string `json:"role"`
	// Index is the rule's position in the role, from 0.
	Index int `json:"index"`
	// Matched is whether the rule allows the call.
	Matched bool `json:"matched"`
	// Why is what made it match or not.
	Why string `json:"why"`
}

// Explain tells why Decide decides as it does. It goes through the whole
// policy and is not for the path of a call. A request without an address is
// judged as if no addresses were blocked.
func (ix *Index) Explain(r Request) Explanation {
	addressBlocked := ""
	if r.Address.IsValid() {
		addressBlocked = ix.addresses.blocked(r.Address)
	}
	d := ix.decide(r, addressBlocked)
	e := Explanation{
		Caller: r.Caller.String(), Action: r.Action.String(), Model: r.Model,
		Allowed: d.Allowed, Outcome: d.Outcome, Detail: d.Detail, Grant: d.Grant,
	}
	if r.Address.IsValid() {
		e.Address = r.Address.String()
	}
	e.Blocks = ix.matchedBlocks(r)
	e.Bindings = ix.matchedBindings(r)
	for _, name := range e.roles() {
		for i, rule := range ix.role(name).GetRules() {
			matched, why := considered(rule, r)
			e.Rules = append(e.Rules, ConsideredRule{Role: name, Index: i, Matched: matched, Why: why})
		}
	}
	if d.Outcome == NoRole || d.Outcome == NotGranted {
		e.Suggestions = ix.suggestions(r, e.roles())
	}
	return e
}

func (ix *Index) role(name string) *configv1.Role {
	i := slices.IndexFunc(ix.policy.GetRoles(), func(r *configv1.Role) bool { return r.GetName() == name })
	return ix.policy.GetRoles()[i]
}

func (ix *Index) matchedBlocks(r Request) []MatchedBlock {
	var matched []MatchedBlock
	for i, b := range ix.policy.GetBlocked() {
		for _, caller := range b.GetCallers() {
			if p, err := parsePattern(caller); err == nil && p.matches(r.Caller) {
				matched = append(matched, MatchedBlock{Index: i, Pattern: caller, Reason: b.GetReason()})
			}
		}
		for _, address := range b.GetAddresses() {
			if p, err := netip.ParsePrefix(address); err == nil && p.Contains(plain(r.Address)) {
				matched = append(matched, MatchedBlock{Index: i, Pattern: address, Reason: b.GetReason()})
			}
		}
	}
	return matched
}

func (ix *Index) matchedBindings(r Request) []MatchedBinding {
	var matched []MatchedBinding
	for i, b := range ix.policy.GetBindings() {
		for _, caller := range b.GetCallers() {
			if p, err := parsePattern(caller); err == nil && p.matches(r.Caller) {
				matched = append(matched, MatchedBinding{Index: i, Role: b.GetRole(), Pattern: caller})
			}
		}
	}
	return matched
}

// roles are the roles bound, each once, sorted.
func (e Explanation) roles() []string {
	var names []string
	for _, b := range e.Bindings {
		names = append(names, b.Role)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// considered tells whether the rule allows the call, and why or why not.
func considered(rule *configv1.Rule, r Request) (matched bool, why string) {
	if r.Action == None {
		return true, "every role allows it"
	}
	if !slices.Contains(rule.GetActions(), configv1.Action(r.Action)) {
		return false, fmt.Sprintf("allows %s, not %s", join(rule.GetActions()), r.Action)
	}
	if r.Action == Introspect {
		return true, "allows INTROSPECT"
	}
	for _, pattern := range rule.GetModels() {
		if modelMatches(pattern, r.Model) {
			return true, fmt.Sprintf("allows %s on %q", r.Action, pattern)
		}
	}
	return false, fmt.Sprintf("allows %s on %s, not on %q", r.Action, quoted(rule.GetModels()), r.Model)
}

func join(actions []configv1.Action) string {
	var names []string
	for _, a := range actions {
		names = append(names, a.String())
	}
	return strings.Join(names, ", ")
}

func quoted(s []string) string {
	return strings.Trim(fmt.Sprintf("%q", s), "[]")
}
