package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
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
	// User is on whose behalf the call is; nil for the caller itself.
	User *ExplainedUser `json:"user,omitempty"`
	// Rows are the rows asked for.
	Rows int64 `json:"rows,omitempty"`
	// Allowed, Outcome and Detail are what Decide says.
	Allowed bool    `json:"allowed"`
	Outcome Outcome `json:"outcome"`
	Detail  string  `json:"detail,omitempty"`
	// Blocks are the entries of blocked that match.
	Blocks []MatchedBlock `json:"blocks,omitempty"`
	// Bindings are those that match the caller, whether or not they match the user.
	Bindings []MatchedBinding `json:"bindings,omitempty"`
	// Rules are all rules of the roles so bound, with what became of each.
	Rules []ConsideredRule `json:"rules,omitempty"`
	// Grant is what the matching roles give; nil unless allowed.
	Grant *Grant `json:"grant,omitempty"`
	// Suggestions name what comes nearest to allowing a call that was refused.
	Suggestions []string `json:"suggestions,omitempty"`
}

// ExplainedUser names a user. Groups and the like are left out: what of them
// counts is said where it does.
type ExplainedUser struct {
	// Issuer vouches for the user.
	Issuer string `json:"issuer"`
	// Subject names the user to the issuer.
	Subject string `json:"subject"`
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
	// User is what the binding asks of the user; empty if nothing.
	User string `json:"user,omitempty"`
	// Unmet is what the call's user does not meet of it; empty if the binding
	// gives the role.
	Unmet string `json:"unmet,omitempty"`
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
	// When is the rule's condition; empty if it has none.
	When string `json:"when,omitempty"`
	// Value is what the condition came to, "true", "false" or "error: …"; empty if
	// it did not come to that.
	Value string `json:"value,omitempty"`
}

// Explain tells why Decide decides as it does. It goes through the whole
// policy and is not for the path of a call. A request without an address is
// judged as if no addresses were blocked; a condition that reads the address
// is an error then, as one that reads the time is without a time.
func (ix *Index) Explain(r Request) Explanation {
	addressBlocked := ""
	if r.Address.IsValid() {
		addressBlocked = ix.addresses.blocked(r.Address)
	}
	d := ix.decide(r, addressBlocked)
	e := Explanation{
		Caller: r.Caller.String(), Action: r.Action.String(), Model: r.Model, Rows: r.Rows,
		Allowed: d.Allowed, Outcome: d.Outcome, Detail: d.Detail, Grant: d.Grant,
	}
	if r.Address.IsValid() {
		e.Address = r.Address.String()
	}
	if r.User != nil {
		e.User = &ExplainedUser{Issuer: r.User.Issuer, Subject: r.User.Subject}
	}
	e.Blocks = ix.matchedBlocks(r)
	e.Bindings = ix.matchedBindings(r)
	for _, name := range e.roles() {
		for i, rule := range ix.role(name).GetRules() {
			c := ConsideredRule{Role: name, Index: i, When: rule.GetWhen()}
			c.Matched, c.Why = considered(rule, r)
			if c.Matched && r.Action != None && c.When != "" {
				c.Matched, c.Value = ix.condition(c.When, r)
			}
			e.Rules = append(e.Rules, c)
		}
	}
	switch d.Outcome {
	case NoRole, NotGranted, UserMismatch, ConditionFailed:
		e.Suggestions = ix.suggestions(r, e)
	default:
	}
	return e
}

// condition evaluates one for itself: what the conditions of a decision may cost
// together is left aside.
func (ix *Index) condition(when string, r Request) (bool, string) {
	value, err := ix.conditions[when].eval(&facts{r: r})
	if err != nil {
		return false, "error: " + clip(err.Error(), maxDetailBytes)
	}
	return value, strconv.FormatBool(value)
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
				m := MatchedBinding{Index: i, Role: b.GetRole(), Pattern: caller}
				if need, err := newRequirement(b.GetUser()); need != nil && err == nil {
					m.User, m.Unmet = need.String(), need.unmet(r.User)
				}
				matched = append(matched, m)
			}
		}
	}
	return matched
}

// roles are the roles that the call has, each once, sorted.
func (e Explanation) roles() []string {
	var names []string
	for _, b := range e.Bindings {
		if b.Unmet == "" {
			names = append(names, b.Role)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// considered tells whether the rule allows the call, its condition left aside,
// and why or why not.
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
