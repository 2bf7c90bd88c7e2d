package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// reader walks the records of a log and checks each of them. The log may grow
// meanwhile.
type reader struct {
	dir   string
	path  string // of the segment that is read
	file  *os.File
	buf   *bufio.Reader
	first uint64 // first sequence of the segment
	off   int64  // of the next frame
	seq   uint64 // of the last record, or first-1
	tree  tree   // over all records up to seq
	frame []byte // the last frame, from its record on
	leaf  hash   // of the last record

	hasher *leafHasher

	segments int
	bytes    int64 // of the segments before this one
	torn     int64 // length of the torn tail, once next has returned io.EOF
}

// openReader returns a reader at the beginning of the segment that holds from,
// or of the last one if from lies beyond the end. The caller closes it.
func openReader(dir string, from uint64) (*reader, error) {
	const most = 10
	for n := 1; ; n++ {
		r, err := openReaderOnce(dir, from)
		if !errors.Is(err, errDeleted) || n == most {
			return r, err
		}
	}
}

// errDeleted says that retention has deleted what was to be read.
var errDeleted = errors.New("deleted while they were to be read")

func openReaderOnce(dir string, from uint64) (*reader, error) {
	firsts, err := segments(dir)
	if err != nil {
		return nil, err
	}
	if len(firsts) == 0 {
		if orphan, err := orphaned(dir, nil); err == nil && orphan != 0 {
			return nil, missing(dir, orphan)
		}
		return nil, fmt.Errorf("no audit log in %s: %w", dir, os.ErrNotExist)
	}
	from = max(from, 1)
	first := firsts[0]
	for _, f := range firsts {
		if f <= from {
			first = f
		}
	}
	r := &reader{dir: dir, seq: first - 1, hasher: newLeafHasher()}
	if err := r.open(first); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // opened for reading only
	}
}

func (r *reader) tampered(reason string) error {
	return &TamperError{File: r.path, Offset: r.off, Sequence: r.seq + 1, Reason: reason}
}

// open goes to the segment whose first sequence is first. If it is not where
// the reader started, its header has to continue the records read so far.
func (r *reader) open(first uint64) error {
	begin := r.file == nil
	if r.file != nil {
		r.bytes += r.off
	}
	r.path = filepath.Join(r.dir, segmentName(first))
	r.first, r.off = first, 0
	if err := r.reopen(); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return r.gone(first)
		}
		return r.replaced(err)
	}
	before, err := readHeader(r.buf)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF: //nolint:errorlint // io.ReadFull returns them bare
		// A segment gets its name only when its header is on disk.
		return r.tampered("header is incomplete")
	case err != nil:
		return r.tampered(err.Error())
	case before.size+1 != first:
		return r.tampered(fmt.Sprintf("header says that it begins at record %d", before.size+1))
	case !begin && !before.equal(&r.tree):
		return r.tampered("the tree in its header is not that of the records before it")
	}
	r.tree = before
	r.off = int64(headerSize(first))
	r.segments++
	return nil
}

// gone is the error that the segment which begins with first is not there any more.
func (r *reader) gone(first uint64) error {
	firsts, err := segments(r.dir)
	if err != nil {
		return err
	}
	if len(firsts) > 0 && firsts[0] > first {
		return fmt.Errorf("records %d to %d were %w", first, firsts[0]-1, errDeleted)
	}
	return r.tampered("segment is missing")
}

// replaced is the error that something else is in a segment's place.
func (r *reader) replaced(err error) error {
	if errors.Is(err, errIrregular) {
		return r.tampered(err.Error())
	}
	return err
}

// reopen opens the segment's file again at the next frame. Its name counts,
// not the open file: the writer may have replaced a segment without records.
func (r *reader) reopen() error {
	f, err := openRegular(r.path)
	if err != nil {
		return err
	}
	r.close()
	r.file = f
	if _, err := f.Seek(r.off, io.SeekStart); err != nil {
		return err
	}
	if r.buf == nil {
		r.buf = bufio.NewReaderSize(f, 64<<10)
	} else {
		r.buf.Reset(f)
	}
	return nil
}

// again goes back to the next frame. A segment that others follow may be gone by
// now, because retention has deleted it: the open file still has it.
func (r *reader) again(following uint64) error {
	err := r.reopen()
	if following != 0 && errors.Is(err, os.ErrNotExist) {
		r.buf.Reset(r.file)
		_, err = r.file.Seek(r.off, io.SeekStart)
	}
	return r.replaced(err)
}

// next returns the next record, encoded and valid until the next call; io.EOF
// at the end of the log, be it clean or torn (a later call goes on if the log
// has grown); a *TamperError if something does not fit.
func (r *reader) next() ([]byte, error) {
	for {
		if record, err := r.read(r.buf); err == nil || !structural(err) {
			return record, err
		}
		// The end, or damage. First whether a later segment exists: if so, this
		// one is complete, and what is read after that is final.
		following, oldest, err := r.following()
		if err != nil {
			return nil, err
		}
		if err := r.again(following); err != nil {
			return nil, err
		}
		tail, err := io.ReadAll(io.LimitReader(r.file, maxCommit+1))
		if err != nil {
			return nil, err
		}
		record, err := r.read(bytes.NewReader(tail))
		switch {
		case err == nil:
			return record, r.again(following)
		case following == 0 && err == io.EOF: //nolint:errorlint // io.ReadFull returns it bare
			r.torn = 0
			return nil, io.EOF
		case following == 0 && torn(tail, r.off):
			r.torn = int64(len(tail))
			return nil, io.EOF
		case err != io.EOF: //nolint:errorlint // as above
			return nil, r.tampered(reason(err))
		case following > r.seq+1 && following == oldest:
			return nil, fmt.Errorf("records %d to %d were %w", r.seq+1, following-1, errDeleted)
		case following > r.seq+1:
			return nil, r.tampered(fmt.Sprintf("record is missing, the next segment begins at record %d", following))
		case following < r.seq+1:
			path := filepath.Join(r.dir, segmentName(following))
			return nil, &TamperError{File: path, Sequence: following, Reason: "segment begins inside the one before it"}
		}
		if err := r.open(following); err != nil {
			return nil, err
		}
	}
}

// following is the first sequence of the segment after this one, or 0, and oldest
// that of the first segment there is.
func (r *reader) following() (first, oldest uint64, err error) {
	firsts, err := segments(r.dir)
	if err != nil {
		return 0, 0, err
	}
	i, found := slices.BinarySearch(firsts, r.first)
	if found {
		i++
	}
	if i == len(firsts) {
		return 0, 0, nil
	}
	return firsts[i], firsts[0], nil
}

// structural tells an error of the format from one of the file system.
func structural(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, errLength, errHash, errSequence} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func reason(err error) string {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "frame is cut off"
	}
	return err.Error()
}

// read reads one frame and moves on behind it. It returns io.EOF before a
// frame and io.ErrUnexpectedEOF inside one, bare, and else the frame's fault.
func (r *reader) read(src io.Reader) ([]byte, error) {
	var prefix [prefixSize]byte
	if _, err := io.ReadFull(src, prefix[:]); err != nil {
		return nil, err
	}
	n := frameLength(prefix[:])
	if n == 0 {
		return nil, errLength
	}
	r.frame = slices.Grow(r.frame[:0], n+len(hash{}))[:n+len(hash{})]
	if _, err := io.ReadFull(src, r.frame); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
	record := r.frame[:n]
	leaf := r.hasher.sum(record)
	if leaf != hash(r.frame[n:]) {
		return nil, errHash
	}
	var seq [sequenceSize]byte
	if !bytes.HasSuffix(record, appendSequence(seq[:0], r.seq+1)) {
		return nil, errSequence
	}
	r.leaf = leaf
	r.tree.add(leaf)
	r.seq++
	r.off += int64(prefixSize + len(r.frame))
	return record, nil
}

// hashedAnew is the error that the records up to now have another root than a
// checkpoint of as many says; those before from do not matter to it.
func (r *reader) hashedAnew(from uint64, c *Checkpoint) error {
	return &TamperError{File: r.path, Offset: int64(headerSize(r.first)), Sequence: from, Through: c.Size,
		Reason: fmt.Sprintf("the records do not have the root of the checkpoint of %d records: some were changed and hashed anew, or the checkpoint is of another log", c.Size)}
}

// cutOff is the error that the log ends before what a checkpoint covers.
func (r *reader) cutOff(c *Checkpoint) error {
	return r.tampered(fmt.Sprintf("the log ends with record %d, but there is a checkpoint of %d records: it was cut off or replaced", r.seq, c.Size))
}

// unsigned is the error that a log has records from first on and no checkpoint.
func (r *reader) unsigned(first uint64) error {
	return &TamperError{File: filepath.Join(r.dir, checkpointsName(r.first)), Sequence: first, Through: r.seq,
		Reason: "the log has no checkpoint, though one is made when it is opened: nothing in it is signed"}
}
