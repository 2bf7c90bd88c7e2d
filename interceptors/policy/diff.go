package policy

// Change is how something differs between two policies.
type Change uint8

const (
	// Same: it does not differ.
	Same Change = iota
	// Gained: it is in the later policy only.
	Gained
	// Lost: it is in the earlier policy only.
	Lost
	// Altered: it is in both, and not the same.
	Altered
)

var changeNames = [...]string{"same", "gained", "lost", "altered"}

// String is the change as a word: "gained".
func (c Change) String() string { return changeNames[min(int(c), len(changeNames)-1)] }

// MarshalText is String, for JSON.
func (c Change) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Diff is what two policies decide differently, to the last caller and model.
//
// A line about a pattern holds for what the pattern matches, save where a
// narrower line holds: for a call, the group of the narrowest callers counts
// that has a line for its action and model, and in that group the line of the
// narrowest model. What no line is about does not differ. So lines that would
// follow from wider ones are left out, and where nothing changes within
// something that does, a line says Same.
type Diff struct {
	// Callers are groups of lines, each wider pattern before those within it.
	Callers []CallerDiff `json:"callers,omitempty"`
	// Addresses are the blocked ranges that differ, the wider before the narrower.
	Addresses []AddressDiff `json:"addresses,omitempty"`
	// Roles are those that only one policy has, and those whose limits differ.
	Roles []RoleDiff `json:"roles,omitempty"`
}

// Empty is whether the policies do not differ.
func (d Diff) Empty() bool { return len(d.Callers)+len(d.Addresses)+len(d.Roles) == 0 }

// CallerDiff is what changes for the callers of a pattern.
type CallerDiff struct {
	// Callers is the pattern.
	Callers string `json:"callers"`
	// Unchanged is whether nothing changes for them, whatever the groups of wider
	// patterns say. There is nothing else in the group then.
	Unchanged bool `json:"unchanged,omitempty"`
	// Blocked is whether they are blocked; nil if a wider group says it.
	Blocked *BlockDiff `json:"blocked,omitempty"`
	// Bound are the roles that the callers have. What they allow is in Access;
	// they are listed because limits depend on them.
	Bound []BoundDiff `json:"bound,omitempty"`
	// Access is what the callers may do.
	Access []AccessDiff `json:"access,omitempty"`
}

// BlockDiff is a block of callers.
type BlockDiff struct {
	// Change is Gained if they are blocked now.
	Change Change `json:"change"`
	// Reason is the entry that blocks, or blocked, with its reason; empty if
	// neither does.
	Reason string `json:"reason,omitempty"`
}

// BoundDiff is a role that callers have.
type BoundDiff struct {
	// Change is Gained or Lost, or Same.
	Change Change `json:"change"`
	// Role is its name.
	Role string `json:"role"`
	// User is what must hold for the user; empty if the role needs none.
	User string `json:"user,omitempty"`
}

// AccessDiff is what changes alike for some actions on the models of some
// patterns.
type AccessDiff struct {
	// Change is Altered if other conditions hold.
	Change Change `json:"change"`
	// Actions are the names of the actions.
	Actions []string `json:"actions"`
	// Models are the patterns of models; none for INTROSPECT, which stands alone.
	Models []string `json:"models,omitempty"`
	// Before and After are "none", "always", or the conditions under which it is
	// allowed, in an order that does not depend on that in the policy.
	Before string `json:"before"`
	After  string `json:"after"`
}

// AddressDiff is a range of addresses.
type AddressDiff struct {
	// Change is Gained if the range is blocked now.
	Change Change `json:"change"`
	// Range is the range in CIDR form.
	Range string `json:"range"`
	// Reason is the entry that blocks, or blocked, with its reason; empty if
	// neither does.
	Reason string `json:"reason,omitempty"`
}

// RoleDiff is a role with its limits.
type RoleDiff struct {
	// Change is Altered if the limits differ.
	Change Change `json:"change"`
	// Role is its name.
	Role string `json:"role"`
	// Before and After are the limits, nil where the role is not.
	Before *Limits `json:"before,omitempty"`
	After  *Limits `json:"after,omitempty"`
}

// changed is the change of something that is there or not.
func changed(before, after bool) Change {
	switch {
	case before == after:
		return Same
	case after:
		return Gained
	}
	return Lost
}

// Compare tells what differs from one policy to another. Conditions and what is
// required of users are compared as they are written, in any order: two ways to
// write the same condition are a difference.
//
// Patterns nest, so those of both policies together cut callers and models into
// regions, one a pattern, and within a region nothing differs from one caller or
// model to the next. The time is that for all pairs of regions of callers, less
// those for which both policies say the same, and of models; memory is for one
// path of callers through the nesting, and for the lines.
func Compare(before, after *Index) Diff {
	c := newComparison(before.policy, after.policy)
	return Diff{
		Callers:   c.callers(),
		Addresses: compareRanges(before.policy.GetBlocked(), after.policy.GetBlocked()),
		Roles:     compareRoles(before.policy.GetRoles(), after.policy.GetRoles()),
	}
}
