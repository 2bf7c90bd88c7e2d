package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// The format, all integers big-endian:
//
//	segment = header frame*
//	header  = magic[8] version[4] first-sequence[8] edge[32]* crc32c[4]
//	frame   = length[4] crc32c-of-length[4] record[length] leaf-hash[32]
//
// The edges are those of the tree over all records before the segment (see tree),
// as many as bits are set in first-sequence - 1. With them a segment can be read,
// and what follows proved, without those before it. leaf-hash is that of RFC 6962:
// SHA-256(0x00 || record). A record is an encoded Record whose last field is its
// sequence. The checksums are there so that a changed length, or header, cannot
// pass for one that was cut off.
//
// Beside a segment stand its checkpoints, one signed note behind the other, and,
// once it is full, its index (see index), which holds nothing that is not in the
// segment.
const (
	magic       = "SALLYAUD"
	version     = 2
	fixedHeader = len(magic) + 4 + 8
	prefixSize  = 4 + 4

	// MaxRecord is the largest encoded record in bytes, its sequence included.
	MaxRecord = 1 << 20
	// maxCommit is the most that one commit writes, hence the longest torn tail.
	maxCommit = 4 << 20

	// maxSegmentRecords bounds a segment whatever its bytes, and so what its index
	// takes in memory while it is written: 50 MB.
	maxSegmentRecords = 1 << 20

	sequenceField = protowire.Number(1)
	// sequenceSize is the most that the sequence adds to a record.
	sequenceSize = 1 + binary.MaxVarintLen64
	// frameOverhead is the most that a frame adds to a record without sequence.
	frameOverhead = prefixSize + sequenceSize + sha256.Size

	segmentSuffix     = ".log"
	checkpointsSuffix = ".checkpoints"
	indexSuffix       = ".index"
	// publicFile lists the public keys that signed checkpoints of the log, a line
	// each. Who can change the log can change it: it is for convenience.
	publicFile = "log.pub"
)

// headerSize is the length of the header of a segment.
func headerSize(first uint64) int { return fixedHeader + edgesOf(first-1)*sha256.Size + crc32.Size }

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errLength   = errors.New("length is out of bounds or does not match its checksum")
	errHash     = errors.New("record does not match its hash")
	errSequence = errors.New("record does not end with its sequence")
)

// TamperError names the first place of a log that does not fit.
type TamperError struct {
	// File is the segment's path.
	File string
	// Offset is where in File the frame begins that does not fit; 0 for the header.
	Offset int64
	// Sequence is that of the record which should have been there.
	Sequence uint64
	// Through is the last record that it may be instead of Sequence, where records
	// were hashed anew and only a checkpoint tells; else 0.
	Through uint64
	// Reason says what does not fit.
	Reason string
}

func (e *TamperError) Error() string {
	which := fmt.Sprintf("record %d", e.Sequence)
	if e.Through > e.Sequence {
		which = fmt.Sprintf("one of the records %d to %d", e.Sequence, e.Through)
	}
	return fmt.Sprintf("%s at offset %d, %s: %s", e.File, e.Offset, which, e.Reason)
}

func segmentName(first uint64) string     { return fmt.Sprintf("%020d", first) + segmentSuffix }
func checkpointsName(first uint64) string { return fmt.Sprintf("%020d", first) + checkpointsSuffix }
func indexName(first uint64) string       { return fmt.Sprintf("%020d", first) + indexSuffix }

// segments lists the first sequences of the segments in dir, ascending.
func segments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(stem, 10, 64)
		if err != nil || first == 0 || segmentName(first) != e.Name() || !e.Type().IsRegular() {
			return nil, &TamperError{File: filepath.Join(dir, e.Name()), Sequence: first, Reason: "not a segment of this log"}
		}
		firsts = append(firsts, first)
	}
	slices.Sort(firsts)
	return firsts, nil
}

// appendHeader appends the header of the segment that follows the records of t.
func appendHeader(b []byte, t *tree) []byte {
	start := len(b)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint64(b, t.size+1)
	for _, e := range t.edges {
		b = append(b, e[:]...)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// readHeader reads a segment's header: the tree before its first record.
func readHeader(r io.Reader) (tree, error) {
	b := make([]byte, fixedHeader, fixedHeader+64*sha256.Size+crc32.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return tree{}, err
	}
	if string(b[:len(magic)]) != magic {
		return tree{}, errors.New("not an audit log: wrong magic")
	}
	switch v := binary.BigEndian.Uint32(b[len(magic):]); v {
	case version:
	case 1:
		return tree{}, errors.New("format version 1 is of a Sallyport before checkpoints, which reads it; keep the directory and begin a new log in another one")
	default:
		return tree{}, fmt.Errorf("format version %d is unknown", v)
	}
	first := binary.BigEndian.Uint64(b[len(magic)+4:])
	if first == 0 {
		return tree{}, errors.New("header says that it begins at record 0")
	}
	b = b[:headerSize(first)]
	if _, err := io.ReadFull(r, b[fixedHeader:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return tree{}, err
	}
	end := len(b) - crc32.Size
	if binary.BigEndian.Uint32(b[end:]) != crc32.Checksum(b[:end], castagnoli) {
		return tree{}, errors.New("header does not match its checksum")
	}
	t := tree{size: first - 1}
	for e := b[fixedHeader:end]; len(e) > 0; e = e[sha256.Size:] {
		t.edges = append(t.edges, hash(e[:sha256.Size]))
	}
	return t, nil
}

// appendFrame appends the frame of a record, encoded without its sequence, and
// returns the hash of its leaf.
func (l *leafHasher) appendFrame(b, body []byte, seq uint64) ([]byte, hash) {
	start := len(b)
	b = append(b, make([]byte, prefixSize)...)
	b = append(b, body...)
	// The last occurrence of a field counts, so the sequence is the log's
	// whatever body says.
	b = appendSequence(b, seq)
	record := b[start+prefixSize:]
	binary.BigEndian.PutUint32(b[start:], uint32(len(record))) //nolint:gosec // encode bounds it by MaxRecord
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(b[start:start+4], castagnoli))
	leaf := l.sum(record)
	return append(b, leaf[:]...), leaf
}

func appendSequence(b []byte, seq uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, sequenceField, protowire.VarintType), seq)
}

// frameLength is the record's length in a frame's prefix, or 0 if the prefix
// is not one.
func frameLength(prefix []byte) int {
	n := binary.BigEndian.Uint32(prefix)
	if n > MaxRecord || binary.BigEndian.Uint32(prefix[4:]) != crc32.Checksum(prefix[:4], castagnoli) {
		return 0
	}
	return int(n)
}
