package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"google.golang.org/protobuf/encoding/protowire"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// The index of a full segment makes one record findable by its call id, and the
// hashes of all of them readable without the records:
//
//	index = magic[8] version[4] first[8] count[8] calls[8] from[8] to[8] bytes[8]
//	        offset[8]{count} leaf-hash[32]{count} (key[8] n[4]){calls} crc32c[4]
//
// from and to bound the records' times, in nanoseconds; bytes is the length of
// the segment. The keys are hashes of call ids, ascending, n the place of the
// record in the segment. Nothing relies on an index: what it leads to is read from
// the segment and checked there, and Verify compares it with the segment.
const (
	indexMagic  = "SALLYIDX"
	indexHeader = len(indexMagic) + 4 + 6*8
	offsetBytes = 8
	callBytes   = 8 + 4
)

// errIndex says that an index is damaged, or of something else.
var errIndex = errors.New("not an index of its segment")

type indexedCall struct {
	key uint64
	n   uint32
}

// indexBuilder collects what the index of one segment holds.
type indexBuilder struct {
	first    uint64
	offsets  []int64
	leaves   []hash
	calls    []indexedCall
	from, to int64
}

func newIndexBuilder(first uint64) *indexBuilder {
	return &indexBuilder{first: first, from: math.MaxInt64, to: math.MinInt64}
}

// add adds the next record, which stands at off in the segment.
func (b *indexBuilder) add(clear clearPart, off int64, leaf hash) {
	if len(clear.callID) > 0 {
		b.calls = append(b.calls, indexedCall{callKey(clear.callID), uint32(len(b.offsets))}) //nolint:gosec // a segment with 2^32 records is refused by finish
	}
	if clear.at != 0 {
		b.from, b.to = min(b.from, clear.at), max(b.to, clear.at)
	}
	b.offsets, b.leaves = append(b.offsets, off), append(b.leaves, leaf)
}

// bytes is the index of a segment that is size bytes long.
func (b *indexBuilder) bytes(size int64) []byte {
	slices.SortFunc(b.calls, func(x, y indexedCall) int {
		return cmp.Or(cmp.Compare(x.key, y.key), cmp.Compare(x.n, y.n))
	})
	out := make([]byte, 0, indexHeader+len(b.offsets)*(offsetBytes+sha256.Size)+len(b.calls)*callBytes+crc32.Size)
	out = append(out, indexMagic...)
	out = binary.BigEndian.AppendUint32(out, version)
	for _, v := range []int64{int64(b.first), int64(len(b.offsets)), int64(len(b.calls)), b.from, b.to, size} { //nolint:gosec // sequences stay below 2^63
		out = binary.BigEndian.AppendUint64(out, uint64(v)) //nolint:gosec // read back alike
	}
	for _, off := range b.offsets {
		out = binary.BigEndian.AppendUint64(out, uint64(off)) //nolint:gosec // not negative
	}
	for i := range b.leaves {
		out = append(out, b.leaves[i][:]...)
	}
	for _, c := range b.calls {
		out = binary.BigEndian.AppendUint64(out, c.key)
		out = binary.BigEndian.AppendUint32(out, c.n)
	}
	return binary.BigEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

// write writes the index beside its segment. One that has its name is whole; one
// that a crash leaves without it is made anew.
func (b *indexBuilder) write(dir string, size int64, sync func(*os.File) error) error {
	return writeWhole(filepath.Join(dir, indexName(b.first)), b.bytes(size), sync)
}

// index is an index that is open for reading.
type index struct {
	file     *os.File
	first    uint64
	count    int64
	calls    int64
	from, to int64
	size     int64 // of the segment
}

// openIndex opens the index of a segment; the error is errIndex if it is not a
// whole one of a segment of that length.
func openIndex(dir string, first uint64) (*index, error) {
	f, err := openRegular(filepath.Join(dir, indexName(first)))
	if err != nil {
		return nil, err
	}
	x, err := readIndexHeader(f, first)
	if err == nil {
		var segment os.FileInfo
		if segment, err = os.Stat(filepath.Join(dir, segmentName(first))); err == nil && segment.Size() != x.size {
			err = errIndex
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return x, nil
}

func readIndexHeader(f *os.File, first uint64) (*index, error) {
	var b [indexHeader]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return nil, errIndex
	}
	if !bytes.HasPrefix(b[:], append([]byte(indexMagic), 0, 0, 0, version)) {
		return nil, errIndex
	}
	var v [6]int64
	for i := range v {
		v[i] = int64(binary.BigEndian.Uint64(b[len(indexMagic)+4+8*i:])) //nolint:gosec // checked below
	}
	x := &index{file: f, first: first, count: v[1], calls: v[2], from: v[3], to: v[4], size: v[5]}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const most = maxSegmentRecords + maxCommit/(prefixSize+2+sha256.Size)                           // the last commit may go past it
	if v[0] != int64(first) || x.count < 0 || x.count > most || x.calls < 0 || x.calls > x.count || //nolint:gosec // as above
		info.Size() != x.callsAt()+x.calls*callBytes+crc32.Size {
		return nil, errIndex
	}
	return x, nil
}

func (x *index) leavesAt() int64 { return int64(indexHeader) + x.count*offsetBytes }
func (x *index) callsAt() int64  { return x.leavesAt() + x.count*sha256.Size }
func (x *index) close()          { _ = x.file.Close() } // opened for reading only

// find returns the places of records whose call id may be id.
func (x *index) find(id []byte) ([]int64, error) {
	key := callKey(id)
	var failed error
	at := func(i int64) (c indexedCall) {
		var b [callBytes]byte
		if _, err := x.file.ReadAt(b[:], x.callsAt()+i*callBytes); err != nil {
			failed = err
		}
		return indexedCall{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint32(b[8:])}
	}
	var places []int64
	i := sort.Search(int(x.calls), func(i int) bool { return at(int64(i)).key >= key })
	for ; int64(i) < x.calls && failed == nil; i++ {
		c := at(int64(i))
		if c.key != key || int64(c.n) >= x.count {
			break
		}
		places = append(places, int64(c.n))
	}
	return places, failed
}

// offset is where the n-th record stands in the segment.
func (x *index) offset(n int64) (int64, error) {
	var b [offsetBytes]byte
	if _, err := x.file.ReadAt(b[:], int64(indexHeader)+n*offsetBytes); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(b[:])), nil //nolint:gosec // what does not fit is not found there
}

// leaves reads the hashes of the records from the n-th to before the m-th.
func (x *index) leaves(n, m int64) ([]hash, error) {
	b := make([]byte, (m-n)*sha256.Size)
	if _, err := x.file.ReadAt(b, x.leavesAt()+n*sha256.Size); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	out := make([]hash, m-n)
	for i := range out {
		copy(out[i][:], b[i*sha256.Size:])
	}
	return out, nil
}

// callKey is the FNV-1a hash of a call id, whose case does not matter.
func callKey(id []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range id {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// clearPart is what every stored record has in clear.
type clearPart struct {
	callID   []byte
	at       int64 // nanoseconds; 0 if it has no time
	sequence uint64
	// removedThrough is up to where retention has deleted records; 0 if the record is
	// about something else.
	removedThrough uint64
	removal        []byte // the signed statement of it
}

// readClear reads it from an encoded record. What is malformed is passed over:
// whoever decodes the record finds it.
func readClear(record []byte) (c clearPart) { return readClearTo(record, protowire.MaxValidNumber) }

// readIndexed reads what the index has of a record that was encoded here, whose
// fields are in their order.
func readIndexed(record []byte) clearPart { return readClearTo(record, callIDField) }

func readClearTo(record []byte, last protowire.Number) (c clearPart) {
	var kind, removed uint64
	for len(record) > 0 {
		num, typ, n := protowire.ConsumeTag(record)
		if n < 0 || num > last {
			break
		}
		record = record[n:]
		n = protowire.ConsumeFieldValue(num, typ, record)
		if n < 0 {
			break
		}
		switch typ {
		case protowire.BytesType:
			switch value, _ := protowire.ConsumeBytes(record); num {
			case timeField:
				c.at = readTime(value)
			case callIDField:
				c.callID = value
			case removalField:
				c.removal = value
			default:
			}
		case protowire.VarintType:
			switch value, _ := protowire.ConsumeVarint(record); num {
			case sequenceField:
				c.sequence = value
			case kindField:
				kind = value
			case removedField:
				removed = value
			default:
			}
		default:
		}
		record = record[n:]
	}
	if kind == uint64(auditv1.Kind_KIND_RETENTION) {
		c.removedThrough = removed
	}
	return c
}

const (
	kindField    = protowire.Number(2)
	timeField    = protowire.Number(3)
	callIDField  = protowire.Number(5)
	removedField = protowire.Number(32)
	removalField = protowire.Number(35)
)

// readTime reads an encoded google.protobuf.Timestamp.
func readTime(b []byte) int64 {
	var seconds, nanos uint64
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.VarintType {
			break
		}
		v, m := protowire.ConsumeVarint(b[n:])
		if m < 0 {
			break
		}
		switch num {
		case 1:
			seconds = v
		case 2:
			nanos = v
		default:
		}
		b = b[n+m:]
	}
	return int64(seconds)*1e9 + int64(nanos)
}
