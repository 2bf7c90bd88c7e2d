package policy

import (
	"fmt"
	"slices"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/proto/configfile"
)

const maxSuggestions = 5

// suggestions name what comes nearest to allowing r, of which e explains the
// bindings and rules: the user that a binding needs or the condition that does
// not hold, roles that would allow it, else the model meant; and for a caller
// without roles the binding meant.
func (ix *Index) suggestions(r Request, e Explanation) []string {
	held := e.roles()
	var found []string
	nearly := make(map[string]bool) // roles that a binding would give to another user
	for _, b := range e.Bindings {
		if b.Unmet == "" || slices.Contains(held, b.Role) || !allows(ix.role(b.Role), r) {
			continue
		}
		nearly[b.Role] = true
		if len(found) < maxSuggestions {
			found = append(found, fmt.Sprintf("role %q allows %s, and bindings[%d] gives it to this caller for a user of %s: %s",
				b.Role, r.wish(), b.Index, b.User, b.Unmet))
		}
	}
	allowing := len(nearly)
	for _, c := range e.Rules {
		if c.Value == "" || c.Matched {
			continue
		}
		if allowing++; len(found) < maxSuggestions {
			found = append(found, fmt.Sprintf("role %q rules[%d] would allow %s if its condition were true", c.Role, c.Index, r.wish()))
		}
	}
	if len(e.Bindings) == 0 {
		if index, pattern := ix.nearestBinding(r); pattern != "" {
			found = append(found, fmt.Sprintf("the nearest binding is bindings[%d], to %q, which does not match this caller", index, pattern))
		}
	}
	for _, role := range ix.policy.GetRoles() {
		if slices.Contains(held, role.GetName()) || nearly[role.GetName()] || !allows(role, r) {
			continue
		}
		if allowing++; len(found) < maxSuggestions {
			found = append(found, fmt.Sprintf("role %q allows %s but is not bound to this caller", role.GetName(), r.wish()))
		}
	}
	if allowing == 0 {
		found = append(found, fmt.Sprintf("no role allows %s", r.wish()))
		if model := ix.nearestModel(r); model != "" {
			found = append(found, fmt.Sprintf("the nearest model on which a role allows %s is %q", r.Action, model))
		}
	}
	return found
}

// allows tells whether a rule of the role allows r, its condition left aside.
func allows(role *configv1.Role, r Request) bool {
	return slices.ContainsFunc(role.GetRules(), func(rule *configv1.Rule) bool {
		matched, _ := considered(rule, r)
		return matched
	})
}

// wish is the action, and the model if it is about one.
func (r Request) wish() string {
	if r.Action == None || r.Action == Introspect {
		return r.Action.String()
	}
	return fmt.Sprintf("%s on %q", r.Action, r.Model)
}

// nearestBinding is the one that needs the fewest edits to match, if it is near
// at all: within a third of the caller's ID.
func (ix *Index) nearestBinding(r Request) (index int, pattern string) {
	id := r.Caller.String()
	least := len(id)/3 + 1
	for i, b := range ix.policy.GetBindings() {
		for _, caller := range b.GetCallers() {
			if n := configfile.Edits(caller, id, least); n < least {
				least, index, pattern = n, i, caller
			}
		}
	}
	return index, pattern
}

// nearestModel is likewise among the models on which a role allows the action.
func (ix *Index) nearestModel(r Request) (pattern string) {
	least := len(r.Model)/3 + 1
	for _, role := range ix.policy.GetRoles() {
		for _, rule := range role.GetRules() {
			if !slices.Contains(rule.GetActions(), configv1.Action(r.Action)) {
				continue
			}
			for _, model := range rule.GetModels() {
				if n := configfile.Edits(model, r.Model, least); n < least {
					least, pattern = n, model
				}
			}
		}
	}
	return pattern
}
