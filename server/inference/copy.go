package inference

import (
	"strings"
	"unsafe"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// alignment is that of the largest element of a tensor.
const alignment = 8

// copyOf returns the bytes of data in one piece. The contents of the field at the path
// begin at a multiple of alignment if the field is in the first buffer. Nobody may
// change them.
func copyOf(data mem.BufferSlice, path ...protowire.Number) []byte {
	if len(data) == 0 {
		return nil
	}
	at := offsetOf(data[0].ReadOnlyData(), path)
	var b strings.Builder // makes memory without clearing it first
	b.Grow(alignment + data.Len())
	b.WriteByte(0)
	begin := address(b.String())
	start := 1
	for (begin+uintptr(start+at))%alignment != 0 {
		b.WriteByte(0)
		start++
	}
	for _, piece := range data {
		_, _ = b.Write(piece.ReadOnlyData()) // never fails
	}
	s := b.String()[start:]
	return unsafe.Slice(unsafe.StringData(s), len(s)) //nolint:gosec // as long as s
}

func address(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s))) } //nolint:gosec // only the address is used

// offsetOf is where the contents of the field at the path begin in prefix, the
// beginning of a message; 0 if that is not found.
func offsetOf(prefix []byte, path []protowire.Number) int {
	at := 0
	for {
		number, kind, n := protowire.ConsumeTag(prefix[at:])
		if n < 0 {
			return 0
		}
		at += n
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, prefix[at:]); n < 0 {
				return 0
			}
			at += n
			continue
		}
		length, n := protowire.ConsumeVarint(prefix[at:])
		if n < 0 {
			return 0
		}
		at += n
		switch {
		case number != path[0]:
			if length > uint64(len(prefix)-at) { //nolint:gosec // not negative
				return 0
			}
			at += int(length) //nolint:gosec // below the length of prefix
		case len(path) == 1:
			return at
		default:
			path = path[1:]
		}
	}
}
