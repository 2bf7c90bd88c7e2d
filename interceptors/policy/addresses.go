package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// addresses finds the blocked range of an address, in time that depends on how
// many lengths the ranges have, not on how many there are.
type addresses struct {
	ranges  map[netip.Prefix]string // why it is blocked
	lengths [2][]int                // of the IPv4 and of the IPv6 ranges
}

// parseRange takes a range in CIDR form and is stricter than the schema: a
// range that says something else than it seems to is refused.
func parseRange(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("address range %q is not in CIDR form", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("address range %q: write an IPv4 range as IPv4", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("address range %q has bits beyond its length; did you mean %s?", s, p.Masked())
	}
	return p, nil
}

func (a *addresses) add(p netip.Prefix, why string) {
	if a.ranges == nil {
		a.ranges = make(map[netip.Prefix]string)
	}
	if _, ok := a.ranges[p]; ok {
		return
	}
	a.ranges[p] = why
	lengths := &a.lengths[family(p.Addr())]
	if !slices.Contains(*lengths, p.Bits()) {
		*lengths = append(*lengths, p.Bits())
	}
}

// blocked tells why addr is blocked; empty if it is not. Where ranges are
// blocked and the address is not known, it might be one of them.
func (a *addresses) blocked(addr netip.Addr) string {
	if len(a.ranges) == 0 {
		return ""
	}
	if !addr.IsValid() {
		return "the policy blocks addresses, and the caller's is not known"
	}
	addr = plain(addr)
	for _, bits := range a.lengths[family(addr)] {
		if p, err := addr.Prefix(bits); err == nil {
			if why, ok := a.ranges[p]; ok {
				return why
			}
		}
	}
	return ""
}

// plain is addr without what hides it from its range: the form that IPv4 takes
// on an IPv6 socket, and a zone.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}
