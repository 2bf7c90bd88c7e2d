package policy

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// Compile makes the index of a policy that Parse returned, and checks what the
// schema cannot say: that every name and pattern means something. The error
// joins all faults, each with the place in the policy. It takes time and memory
// in proportion to the size of the policy, and keeps a copy of it.
func Compile(p *configv1.Policy) (*Index, error) {
	c := compiler{
		ix: &Index{
			policy:   proto.CloneOf(p),
			roles:    make(map[string]*role, len(p.GetRoles())),
			callers:  make(callers),
			interned: make(map[string]*Grant),
			maxKept:  maxKept,
		},
		bound: make(map[string]string),
	}
	c.conditions(p)
	for i, r := range p.GetRoles() {
		c.role(i, r)
	}
	for i, b := range p.GetBindings() {
		c.binding(i, b)
	}
	for i, b := range p.GetBlocked() {
		c.block(i, b)
	}
	if err := errors.Join(c.faults...); err != nil {
		return nil, err
	}
	c.ix.callers.link()
	for i := range c.ix.models {
		c.ix.models[i].link()
	}
	return c.ix, nil
}

type compiler struct {
	ix     *Index
	bound  map[string]string // role, pattern and user → where they were bound
	whens  map[string]compiled
	faults []error
}

func (c *compiler) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

func (c *compiler) role(i int, p *configv1.Role) {
	r := &role{name: p.GetName(), limits: newLimits(p.GetLimits()), classes: make(map[*class][]when)}
	if r.name == "" {
		c.fault("roles[%d]: the role has no name", i)
	}
	if c.ix.roles[r.name] != nil {
		c.fault("roles[%d]: the name %q is taken by another role", i, r.name)
	}
	if r.limits.MaxRowsPerRequest > r.limits.RowBurst {
		c.fault("roles[%d].limits: max_rows_per_request %d is more than row_burst %d, so that such a request never passes",
			i, r.limits.MaxRowsPerRequest, r.limits.RowBurst)
	}
	c.ix.roles[r.name] = r
	c.allow(r, None, "*", nil, fmt.Sprintf("roles[%d]", i))
	for j, rule := range p.GetRules() {
		at := fmt.Sprintf("roles[%d].rules[%d]", i, j)
		var on *when
		if rule.GetWhen() != "" {
			made := c.whens[rule.GetWhen()]
			if made.err != nil {
				c.fault("%s.when: %w", at, made.err)
				continue
			}
			on = &when{rule: j, condition: made.condition}
		}
		for _, action := range rule.GetActions() {
			switch action {
			case configv1.Action_PREDICT, configv1.Action_PREDICT_STREAM, configv1.Action_DESCRIBE:
				for k, model := range rule.GetModels() {
					c.allow(r, Action(action), model, on, fmt.Sprintf("%s.models[%d]", at, k)) //nolint:gosec // the cases fit
				}
			case configv1.Action_INTROSPECT:
				c.allow(r, Introspect, "*", on, at)
			default:
				c.fault("%s: unknown action %d", at, action)
			}
		}
	}
}

// allow adds to the role what a rule allows; on is nil if it does so always.
func (c *compiler) allow(r *role, a Action, model string, on *when, at string) {
	class, err := c.ix.models[a].add(model)
	if err != nil {
		c.fault("%s: %w", at, err)
		return
	}
	r.actions = r.actions.with(a)
	conditions, known := r.classes[class]
	switch {
	case on == nil:
		r.classes[class] = nil
	case !known || len(conditions) > 0:
		r.classes[class] = append(conditions, *on)
	}
}

func (c *compiler) binding(i int, b *configv1.Binding) {
	r := c.ix.roles[b.GetRole()]
	if r == nil {
		c.fault("bindings[%d]: there is no role %q", i, b.GetRole())
	}
	user, err := newRequirement(b.GetUser())
	if err != nil {
		c.fault("bindings[%d].user: %w", i, err)
	}
	of := ""
	if user != nil {
		of = " for a user of " + user.String()
	}
	for j, caller := range b.GetCallers() {
		at := fmt.Sprintf("bindings[%d].callers[%d]", i, j)
		p, err := parsePattern(caller)
		if err != nil {
			c.fault("%s: %w", at, err)
			continue
		}
		key := b.GetRole() + " " + caller + of
		if before, ok := c.bound[key]; ok {
			c.fault("%s: %q has the role %q%s already by %s", at, caller, b.GetRole(), of, before)
			continue
		}
		c.bound[key] = at
		s := c.ix.callers.add(p)
		if user != nil {
			s.onBehalf = append(s.onBehalf, bound{r, user})
		} else {
			s.roles = append(s.roles, r)
		}
	}
}

// block takes what is blocked twice as it is: a list of blocks is put together
// in a hurry, and saying so twice does no harm.
func (c *compiler) block(i int, b *configv1.Block) {
	why := func(what string) string { return fmt.Sprintf("blocked[%d] %s: %s", i, what, b.GetReason()) }
	if len(b.GetCallers())+len(b.GetAddresses()) == 0 {
		c.fault("blocked[%d]: neither callers nor addresses", i)
	}
	for j, caller := range b.GetCallers() {
		p, err := parsePattern(caller)
		if err != nil {
			c.fault("blocked[%d].callers[%d]: %w", i, j, err)
			continue
		}
		s := c.ix.callers.add(p)
		if s.blocked == "" {
			s.blocked = why(caller)
		}
	}
	for j, address := range b.GetAddresses() {
		p, err := parseRange(address)
		if err != nil {
			c.fault("blocked[%d].addresses[%d]: %w", i, j, err)
			continue
		}
		c.ix.addresses.add(p, why(address))
	}
}
