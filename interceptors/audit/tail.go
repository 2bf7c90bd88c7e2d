package audit

const (
	// sector is the smallest unit that a disk writes.
	sector = 512
	// minHole is more zero bytes in a row than the log itself writes.
	minHole = 32
)

// torn tells whether tail, which is the end of the last segment from its first
// frame that does not fit and lies at offset off, can be what is left of a
// commit that was cut off. Nothing in it was acknowledged then.
//
// A killed process leaves a prefix of what it wrote: whole frames, then part
// of one. A power cut can besides leave any sectors of it unwritten, which
// then read as zeros. So a frame that lies within the file and yet does not
// fit is torn only if zeros cover the sectors it lies in. Everything else was
// on disk as a whole once and was changed since. In doubt the answer is no: a
// record that was acknowledged must not be cut off.
//
// Whoever can make a tail look torn can also cut it off; see Verify.
func torn(tail []byte, off int64) bool {
	if len(tail) > maxCommit {
		return false
	}
	if len(tail) < prefixSize {
		return true
	}
	n := frameLength(tail)
	if n == 0 {
		return hole(tail, off, prefixSize)
	}
	size := prefixSize + n + len(hash{})
	return size > len(tail) || hole(tail, off, size)
}

// hole tells whether one of tail's unwritten ranges begins before limit. Such
// a range is zero from off or a sector's start to a sector's end or the end of
// the file.
func hole(tail []byte, off int64, limit int) bool {
	phase := int(off % sector)
	for start := 0; start < limit; {
		end := start + sector - (phase+start)%sector
		end = min(end, len(tail))
		zeros := 0
		for zeros < end-start && tail[start+zeros] == 0 {
			zeros++
		}
		if zeros == end-start && zeros >= minHole {
			return true
		}
		start = end
	}
	return false
}
