package policy

import (
	"fmt"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// pattern is one entry of a binding's or block's callers:
//
//	spiffe://td/a/b    this ID alone
//	spiffe://td/a/*    every ID below the segment a, not spiffe://td/a itself
//	spiffe://td/*      every ID of the trust domain, that without a path too
type pattern struct {
	id    spiffeid.ID
	under bool
}

func parsePattern(s string) (pattern, error) {
	base, under := strings.CutSuffix(s, "/*")
	if strings.Contains(base, "*") {
		return pattern{}, fmt.Errorf("caller %q: * may only be the whole last segment", s)
	}
	id, err := spiffeid.FromString(base)
	if err != nil {
		return pattern{}, fmt.Errorf("caller %q: %w", s, err)
	}
	return pattern{id: id, under: under}, nil
}

// matches is for explanations and states plainly what the tree finds quickly.
func (p pattern) matches(id spiffeid.ID) bool {
	if !p.under {
		return p.id == id
	}
	if p.id.Path() == "" {
		return id.MemberOf(p.id.TrustDomain())
	}
	return strings.HasPrefix(id.String(), p.id.String()+"/")
}

// scope is the callers that exactly the same patterns match. Patterns nest, so
// a scope adds to its parent, and there are no more scopes than patterns.
type scope struct {
	parent *scope // nil if no wider pattern matches
	roles  []*role
	// onBehalf are the roles that need a user as well.
	onBehalf []bound
	// alone is whether a role of this scope or a parent needs no user.
	alone bool
	// actions are those that a role of this scope or a parent allows on any
	// model, users and conditions left aside; None is among them if there is such a
	// role at all.
	actions actions
	blocked string // why, here or in a parent; empty if not blocked

	plans sync.Map // *class or Action → *plan; see Index.plan
}

// bound is a role with what it needs of the user.
type bound struct {
	role *role
	user *requirement
}

// node is a trust domain or a segment of a path in the tree of patterns.
type node struct {
	children map[string]*node
	// Before link: what a pattern of this node says, nil if none. After: the
	// scope of the ID that ends here, and of those that go on where the tree
	// does not; nil if no pattern matches them.
	at, below *scope
}

// callers finds the scope of a SPIFFE ID in time that depends on the ID only.
type callers map[string]*node // by trust domain

// scope is the scope of id, nil if no pattern matches it.
func (c callers) scope(id spiffeid.ID) *scope {
	n := c[id.TrustDomain().Name()]
	if n == nil {
		return nil
	}
	path := strings.TrimPrefix(id.Path(), "/")
	for path != "" {
		var segment string
		segment, path, _ = strings.Cut(path, "/")
		child := n.children[segment]
		if child == nil {
			return n.below
		}
		n = child
	}
	return n.at
}

// add returns the scope that belongs to p alone, to be filled before link.
func (c callers) add(p pattern) *scope {
	td := p.id.TrustDomain().Name()
	n := c[td]
	if n == nil {
		n = &node{}
		c[td] = n
	}
	if path := strings.TrimPrefix(p.id.Path(), "/"); path != "" {
		for segment := range strings.SplitSeq(path, "/") {
			child := n.children[segment]
			if child == nil {
				if n.children == nil {
					n.children = make(map[string]*node)
				}
				child = &node{}
				n.children[segment] = child
			}
			n = child
		}
	}
	s := &n.at
	if p.under {
		s = &n.below
	}
	if *s == nil {
		*s = &scope{}
	}
	return *s
}

// link makes every scope inherit from the next wider one.
func (c callers) link() {
	for _, domain := range c {
		domain.below = domain.below.inherit(nil)
		domain.link(domain.below)
	}
}

func (n *node) link(wider *scope) {
	n.at = n.at.inherit(wider)
	for _, child := range n.children {
		child.below = child.below.inherit(n.below)
		child.link(n.below)
	}
}

func (s *scope) inherit(wider *scope) *scope {
	switch {
	case s == nil:
		return wider
	case wider == nil:
	default:
		s.parent = wider
		s.actions = s.actions.union(wider.actions)
		s.alone = wider.alone
		if s.blocked == "" {
			s.blocked = wider.blocked
		}
	}
	for _, r := range s.roles {
		s.actions = s.actions.union(r.actions)
		s.alone = true
	}
	for _, b := range s.onBehalf {
		s.actions = s.actions.union(b.role.actions)
	}
	return s
}
