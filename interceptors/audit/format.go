package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	stdhash "hash"
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
//	header  = magic[8] version[4] first-sequence[8] chain-hash-before[32]
//	frame   = length[4] crc32c-of-length[4] record[length] chain-hash[32]
//
// chain-hash = SHA-256(chain-hash-before || record). A record is an encoded
// Record whose last field is its sequence. The checksum of the length is there
// so that a changed length cannot pass for a frame that was cut off.
const (
	magic      = "SALLYAUD"
	version    = 1
	headerSize = len(magic) + 4 + 8 + sha256.Size
	prefixSize = 4 + 4

	// MaxRecord is the largest encoded record in bytes, its sequence included.
	MaxRecord = 1 << 20
	// maxCommit is the most that one commit writes, hence the longest torn tail.
	maxCommit = 4 << 20

	sequenceField = protowire.Number(1)
	// sequenceSize is the most that the sequence adds to a record.
	sequenceSize = 1 + binary.MaxVarintLen64
	// frameOverhead is the most that a frame adds to a record without sequence.
	frameOverhead = prefixSize + sequenceSize + sha256.Size

	suffix = ".log"
)

type hash = [sha256.Size]byte

// genesis is the chain hash before the first record of every log.
func genesis() hash { return sha256.Sum256([]byte("sallyport audit log, format 1")) }

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errLength   = errors.New("length is out of bounds or does not match its checksum")
	errHash     = errors.New("chain hash does not match")
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
	// Reason says what does not fit.
	Reason string
}

func (e *TamperError) Error() string {
	return fmt.Sprintf("%s at offset %d, record %d: %s", e.File, e.Offset, e.Sequence, e.Reason)
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d", first) + suffix }

// segments lists the first sequences of the segments in dir, ascending.
func segments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), suffix)
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

func appendHeader(b []byte, first uint64, prev hash) []byte {
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint64(b, first)
	return append(b, prev[:]...)
}

func readHeader(r io.Reader) (first uint64, prev hash, err error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, hash{}, err
	}
	rest := b[len(magic):]
	if string(b[:len(magic)]) != magic {
		return 0, hash{}, errors.New("not an audit log: wrong magic")
	}
	if v := binary.BigEndian.Uint32(rest); v != version {
		return 0, hash{}, fmt.Errorf("format version %d is unknown", v)
	}
	return binary.BigEndian.Uint64(rest[4:]), hash(rest[12:]), nil
}

// chain is the running hash over the records of a log.
type chain struct {
	sum hash
	h   stdhash.Hash
}

func newChain(sum hash) *chain { return &chain{sum: sum, h: sha256.New()} }

func (c *chain) add(record []byte) {
	c.h.Reset()
	c.h.Write(c.sum[:])
	c.h.Write(record)
	c.h.Sum(c.sum[:0])
}

// appendFrame appends the frame of a record, encoded without its sequence, and
// moves the chain on.
func (c *chain) appendFrame(b, body []byte, seq uint64) []byte {
	start := len(b)
	b = append(b, make([]byte, prefixSize)...)
	b = append(b, body...)
	// The last occurrence of a field counts, so the sequence is the log's
	// whatever body says.
	b = appendSequence(b, seq)
	record := b[start+prefixSize:]
	binary.BigEndian.PutUint32(b[start:], uint32(len(record))) //nolint:gosec // encode bounds it by MaxRecord
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(b[start:start+4], castagnoli))
	c.add(record)
	return append(b, c.sum[:]...)
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
