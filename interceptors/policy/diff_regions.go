package policy

import (
	"cmp"
	"slices"
	"strings"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// modelRegions are the patterns of models of both policies. Each stands for the
// models that it matches and no narrower one does.
type modelRegions struct {
	patterns []string       // the wider before the narrower
	wider    []int          // index of the narrowest wider one, or -1
	index    map[string]int // by pattern
}

func newModelRegions(policies ...*configv1.Policy) *modelRegions {
	r := &modelRegions{index: make(map[string]int)}
	for _, p := range policies {
		for _, role := range p.GetRoles() {
			for _, rule := range role.GetRules() {
				for _, model := range rule.GetModels() {
					if _, ok := r.index[model]; !ok {
						r.index[model] = 0
						r.patterns = append(r.patterns, model)
					}
				}
			}
		}
	}
	// A prefix sorts before what begins with it, and "a*" before "a".
	slices.SortFunc(r.patterns, func(a, b string) int {
		baseA, prefixA := strings.CutSuffix(a, "*")
		baseB, prefixB := strings.CutSuffix(b, "*")
		return cmp.Or(cmp.Compare(baseA, baseB), falseFirst(prefixB, prefixA))
	})
	var open []int // prefixes that the next may begin with, the widest first
	for i, pattern := range r.patterns {
		r.index[pattern] = i
		base, prefix := strings.CutSuffix(pattern, "*")
		for len(open) > 0 && !strings.HasPrefix(base, strings.TrimSuffix(r.patterns[open[len(open)-1]], "*")) {
			open = open[:len(open)-1]
		}
		r.wider = append(r.wider, lastOf(open))
		if prefix {
			open = append(open, i)
		}
	}
	return r
}

// falseFirst sorts false before true.
func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func lastOf(s []int) int {
	if len(s) == 0 {
		return -1
	}
	return s[len(s)-1]
}

// callerRegion is a pattern of callers of either policy. It stands for the
// callers that it matches and no narrower one does.
type callerRegion struct {
	name    string
	pattern pattern
	key     string // sorts each pattern right before all that lie within it
	wider   int    // index of the narrowest wider one, or -1
	sides   [2]regionSide
}

// regionSide is what one of the policies says about a region.
type regionSide struct {
	own     []int32 // bindings to this very pattern, sorted
	chain   int32   // equal numbers have equal bindings, here and in all wider ones
	blocked string  // why, here or in a wider one; empty if not blocked

	cells []access // while it is needed: see comparison.cells
}

// callerRegions are the regions of both policies, the wider right before all
// that lie within them, with what is bound and blocked at the very pattern.
type callerRegions struct {
	all   []*callerRegion
	index map[string]*callerRegion
}

// at is the region of a pattern that a compiled policy holds.
func (r *callerRegions) at(caller string) *callerRegion {
	region, ok := r.index[caller]
	if !ok {
		p, err := parsePattern(caller)
		if err != nil {
			panic("policy: compiled with a bad pattern: " + caller)
		}
		// A slash must sort before every byte of a segment, or "a-b" would come
		// between "a/*" and "a/b".
		key := p.id.TrustDomain().Name() + strings.ReplaceAll(p.id.Path(), "/", "\x00")
		region = &callerRegion{name: caller, pattern: p, key: key, wider: -1}
		r.index[caller] = region
		r.all = append(r.all, region)
	}
	return region
}

// link sorts the regions and finds the wider ones.
func (r *callerRegions) link() {
	slices.SortFunc(r.all, func(a, b *callerRegion) int {
		// The ID "td" lies within "td/*", but "td/a" beside "td/a/*".
		if a.key == b.key && a.pattern.id.Path() == "" {
			return falseFirst(b.pattern.under, a.pattern.under)
		}
		return cmp.Or(cmp.Compare(a.key, b.key), falseFirst(a.pattern.under, b.pattern.under))
	})
	var open []int
	for i, region := range r.all {
		for len(open) > 0 && !r.all[open[len(open)-1]].pattern.matches(region.pattern.id) {
			open = open[:len(open)-1]
		}
		region.wider = lastOf(open)
		if region.pattern.under {
			open = append(open, i)
		}
	}
}
