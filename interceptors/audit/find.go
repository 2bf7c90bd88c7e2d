package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// ErrNoCall says that no record has a call id.
var ErrNoCall = errors.New("no such call on record")

// Find returns the record of a call, whose id may be in either case; the error
// wraps ErrNoCall if there is none. It reads the indexes of full segments and all
// of the last one, not the whole log.
func (v View) Find(ctx context.Context, callID string) (*auditv1.Record, error) {
	at, err := find(v.Dir, callID)
	if err != nil {
		return nil, fmt.Errorf("look for call %q: %w", callID, err)
	}
	if v.Keys != nil {
		// The key of a sealed record is the first of its segment.
		key, err := readFrame(v.Dir, at.first, int64(headerSize(at.first)))
		if err == nil {
			_, err = v.open(ctx, key.record)
		}
		if err != nil {
			return nil, fmt.Errorf("look for call %q: %w", callID, err)
		}
	}
	record, err := v.open(ctx, at.record)
	if err != nil {
		return nil, fmt.Errorf("look for call %q: %w", callID, err)
	}
	return record, nil
}

// found is a record in its segment.
type found struct {
	first  uint64
	raw    []byte // as it is stored
	record *auditv1.Record
}

// find finds the record of a call, the newest segment first.
func find(dir, callID string) (found, error) {
	firsts, err := segments(dir)
	if err != nil {
		return found{}, err
	}
	if len(firsts) == 0 {
		return found{}, fmt.Errorf("no audit log in %s: %w", dir, os.ErrNotExist)
	}
	// By the indexes first, which nothing has checked; then by the segments, the last
	// of which has no index, and so that none can hide a call.
	for _, look := range []func(string, uint64, []byte) (found, error){findIn, scan} {
		for _, first := range slices.Backward(firsts) {
			p, err := look(dir, first, []byte(callID))
			if err == nil || !errors.Is(err, ErrNoCall) {
				return p, err
			}
		}
	}
	return found{}, ErrNoCall
}

func findIn(dir string, first uint64, id []byte) (found, error) {
	x, err := openIndex(dir, first)
	if err != nil {
		return found{}, ErrNoCall // such as the last one's: find reads the segment then
	}
	defer x.close()
	candidates, _ := x.find(id)
	for _, n := range candidates {
		off, err := x.offset(n)
		if err != nil {
			break
		}
		if p, err := readFrame(dir, first, off); err == nil && bytes.EqualFold([]byte(p.record.GetCallId()), id) {
			return p, nil
		}
	}
	return found{}, ErrNoCall // or the index is damaged: find reads the segment then
}

// readFrame reads the one frame at an offset, and checks its hash.
func readFrame(dir string, first uint64, off int64) (found, error) {
	path := filepath.Join(dir, segmentName(first))
	f, err := openRegular(path)
	if err != nil {
		return found{}, err
	}
	defer func() { _ = f.Close() }() // opened for reading only
	tampered := &TamperError{File: path, Offset: off, Sequence: first, Reason: errHash.Error()}
	var prefix [prefixSize]byte
	if _, err := f.ReadAt(prefix[:], off); err != nil {
		return found{}, tampered
	}
	n := frameLength(prefix[:])
	frame := make([]byte, n+len(hash{}))
	if _, err := f.ReadAt(frame, off+prefixSize); n == 0 || err != nil {
		return found{}, tampered
	}
	return decodeFrame(first, frame[:n], frame[n:], tampered)
}

func decodeFrame(first uint64, raw, sum []byte, tampered *TamperError) (found, error) {
	record := new(auditv1.Record)
	if newLeafHasher().sum(raw) != hash(sum) || proto.Unmarshal(raw, record) != nil {
		return found{}, tampered
	}
	return found{first: first, raw: raw, record: record}, nil
}

// scan looks for a call in a segment without an index. It hashes nothing but what
// it finds.
func scan(dir string, first uint64, id []byte) (found, error) {
	path := filepath.Join(dir, segmentName(first))
	f, err := openRegular(path)
	if err != nil {
		return found{}, err
	}
	defer func() { _ = f.Close() }() // opened for reading only
	off := int64(headerSize(first))
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return found{}, err
	}
	buf := bufio.NewReaderSize(f, 2*(MaxRecord+frameOverhead))
	for {
		prefix, _ := buf.Peek(prefixSize)
		n := 0
		if len(prefix) == prefixSize {
			n = frameLength(prefix)
		}
		size := prefixSize + n + len(hash{})
		frame, _ := buf.Peek(size)
		if n == 0 || len(frame) < size {
			return found{}, scanned(f, path, first, off)
		}
		raw, sum := frame[prefixSize:prefixSize+n], frame[prefixSize+n:]
		if bytes.EqualFold(readClear(raw).callID, id) {
			return decodeFrame(first, bytes.Clone(raw), sum, &TamperError{File: path, Offset: off, Sequence: first, Reason: errHash.Error()})
		}
		off += int64(size)
		_, _ = buf.Discard(size) // it was peeked at
	}
}

// scanned is the error of a scan that has come to an end at off: that the call is
// not there, or, if this is not an end, that what is behind it cannot be read.
func scanned(f *os.File, path string, first uint64, off int64) error {
	tail, err := io.ReadAll(io.NewSectionReader(f, off, maxCommit+1))
	if err != nil {
		return err
	}
	// A record may have come meanwhile, which was not there to be found.
	whole := len(tail) >= prefixSize && frameLength(tail) > 0
	if len(tail) > 0 && !whole && !torn(tail, off) {
		return &TamperError{File: path, Offset: off, Sequence: first, Reason: "what follows cannot be read, and the call may be there"}
	}
	return ErrNoCall
}
