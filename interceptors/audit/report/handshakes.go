package report

import (
	"cmp"
	"net"
	"regexp"
	"slices"
	"strconv"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

type handshakeKey struct{ claimed, peer string }

// handshakes counts refused handshakes. Strangers choose both parts of the key,
// so there is room for so many and then for the rest together.
type handshakes struct {
	rows   map[handshakeKey]*Handshake
	others *Handshake
}

// unrecordedHandshakes are told by the detail of the next one recorded.
var unrecordedHandshakes = regexp.MustCompile(`^after (\d+) more that were not recorded: `)

// add counts a handshake and returns how many were refused before it without a
// record.
func (h *handshakes) add(r *auditv1.Record, at int64) (unrecorded uint64) {
	key := handshakeKey{r.GetClaimedId(), hostOf(r.GetPeerAddress())}
	row := h.rows[key]
	switch {
	case row != nil:
	case len(h.rows) < maxHandshakes:
		row = &Handshake{Claimed: key.claimed, Peer: key.peer}
		h.rows[key] = row
	default:
		if h.others == nil {
			h.others = &Handshake{Others: true}
		}
		row = h.others
	}
	if row.Count == 0 {
		row.Reasons = make(map[string]uint64, 1)
	}
	row.Count++
	row.Reasons[boundedKey(row.Reasons, r.GetReason())]++
	widen(&row.First, &row.Last, at)
	if m := unrecordedHandshakes.FindStringSubmatch(r.GetDetail()); m != nil {
		unrecorded, _ = strconv.ParseUint(m[1], 10, 64) // digits; one that is too large is the largest
	}
	return unrecorded
}

func (h *handshakes) report() []Handshake {
	out := make([]Handshake, 0, len(h.rows)+1)
	for _, row := range h.rows {
		out = append(out, *row)
	}
	slices.SortFunc(out, func(a, b Handshake) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Claimed, b.Claimed), cmp.Compare(a.Peer, b.Peer))
	})
	if h.others != nil {
		out = append(out, *h.others)
	}
	return out
}

// hostOf is the host of an address with a port, or all of it.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
