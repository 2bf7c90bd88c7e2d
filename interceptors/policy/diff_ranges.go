package policy

import (
	"cmp"
	"math/big"
	"net/netip"
	"slices"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// addressRegion is a blocked range of either policy. It stands for the addresses
// in it that are in no narrower one.
type addressRegion struct {
	prefix  netip.Prefix
	wider   int       // index of the narrowest wider one, or -1
	blocked [2]string // why, here or in a wider one; empty if not blocked
	left    *big.Int  // how many addresses of it are in no narrower one
}

// compareRanges tells which addresses are blocked on one side only.
func compareRanges(before, after []*configv1.Block) []AddressDiff {
	regions := addressRegions(before, after)
	var diffs []AddressDiff
	said := make([]Change, len(regions))
	for i, r := range regions {
		var follows Change
		if r.wider >= 0 {
			follows = said[r.wider]
		}
		is := changed(r.blocked[0] != "", r.blocked[1] != "")
		said[i] = is
		if r.left.Sign() == 0 {
			said[i] = follows // the narrower ones are all there is
			continue
		}
		if is != follows {
			reason := r.blocked[0]
			if is == Gained {
				reason = r.blocked[1]
			}
			diffs = append(diffs, AddressDiff{Change: is, Range: r.prefix.String(), Reason: reason})
		}
	}
	return diffs
}

// addressRegions are sorted, the wider right before all that lie within them.
func addressRegions(sides ...[]*configv1.Block) []*addressRegion {
	index := make(map[netip.Prefix]*addressRegion)
	var regions []*addressRegion
	for side, blocks := range sides {
		for i, b := range blocks {
			for _, address := range b.GetAddresses() {
				p, err := parseRange(address)
				if err != nil {
					panic("policy: compiled with a bad range: " + address)
				}
				r, ok := index[p]
				if !ok {
					r = &addressRegion{prefix: p, wider: -1, left: addressCount(p)}
					index[p] = r
					regions = append(regions, r)
				}
				r.blocked[side] = cmp.Or(r.blocked[side], blockedBy(i, b))
			}
		}
	}
	slices.SortFunc(regions, func(a, b *addressRegion) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	var open []int
	for i, r := range regions {
		for len(open) > 0 && !regions[lastOf(open)].prefix.Contains(r.prefix.Addr()) {
			open = open[:len(open)-1]
		}
		if r.wider = lastOf(open); r.wider >= 0 {
			wider := regions[r.wider]
			wider.left.Sub(wider.left, addressCount(r.prefix))
			for side := range r.blocked {
				r.blocked[side] = cmp.Or(r.blocked[side], wider.blocked[side])
			}
		}
		open = append(open, i)
	}
	return regions
}

// addressCount is the number of addresses of a range.
func addressCount(p netip.Prefix) *big.Int {
	return new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
}

// compareRoles tells which roles only one policy has, and which limits differ.
func compareRoles(before, after []*configv1.Role) []RoleDiff {
	roles := make(map[string]*RoleDiff)
	at := func(r *configv1.Role) *RoleDiff {
		if roles[r.GetName()] == nil {
			roles[r.GetName()] = &RoleDiff{Role: r.GetName()}
		}
		return roles[r.GetName()]
	}
	for _, r := range before {
		limits := newLimits(r.GetLimits())
		at(r).Before = &limits
	}
	for _, r := range after {
		limits := newLimits(r.GetLimits())
		at(r).After = &limits
	}
	var diffs []RoleDiff
	for _, d := range roles {
		d.Change = changed(d.Before != nil, d.After != nil)
		if d.Change == Same && *d.Before != *d.After {
			d.Change = Altered
		}
		if d.Change != Same {
			diffs = append(diffs, *d)
		}
	}
	slices.SortFunc(diffs, func(a, b RoleDiff) int { return cmp.Compare(a.Role, b.Role) })
	return diffs
}
