package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/mod/sumdb/note"
)

// Repair tells what Open cut off the end of the log: part of a commit that was
// never acknowledged, because the process or the machine died over it.
type Repair struct {
	// File is the segment's path.
	File string
	// Offset is where the torn tail began, and the segment now ends.
	Offset int64
	// Bytes is the length of the torn tail.
	Bytes int64
	// Saved is the path of the file that keeps the torn tail.
	Saved string
}

// openWriter locks the directory, goes to the end of the log in it or begins one,
// and cuts a torn tail off.
func openWriter(cfg Config) (_ *writer, _ *Repair, err error) {
	if err := makeDirectory(cfg.Dir); err != nil {
		return nil, nil, err
	}
	w := &writer{dir: cfg.Dir, limit: cfg.SegmentBytes, sync: cfg.sync, syncData: cfg.syncData, signed: new(checkpoints)}
	if w.lock, err = lockDirectory(cfg.Dir); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := removeUnfinished(cfg.Dir); err != nil {
		return nil, nil, err
	}
	firsts, err := segments(cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	var repair *Repair
	if len(firsts) == 0 {
		err = w.begin(cfg)
	} else {
		repair, err = w.resume(firsts, cfg)
	}
	if err == nil {
		// What the last process left behind its last checkpoint is covered now.
		err = w.checkpoint(cfg.Key)
	}
	if err == nil {
		err = listPublicKey(cfg.Dir, cfg.Key.Public(), cfg.sync)
	}
	if err != nil {
		return nil, nil, err
	}
	return w, repair, nil
}

// begin begins a log. Checkpoints without a segment are of one that was deleted.
func (w *writer) begin(cfg Config) error {
	held, err := cfg.held()
	if err != nil {
		return err
	}
	orphan, err := orphaned(w.dir, nil)
	switch {
	case err != nil:
	case orphan != 0:
		err = untouched(missing(w.dir, orphan))
	case held.Size > 0:
		err = untouched(&TamperError{File: filepath.Join(w.dir, segmentName(1)), Sequence: 1, Through: held.Size,
			Reason: fmt.Sprintf("a checkpoint of %d records is kept elsewhere, and there is no log", held.Size)})
	}
	if err != nil {
		return err
	}
	return w.rotate()
}

// held is the checkpoint that is kept elsewhere; its Size is 0 if there is none.
func (c Config) held() (Checkpoint, error) {
	if c.Held == nil {
		return Checkpoint{}, nil
	}
	verifiers, err := ParseVerifiers(c.Key.Public())
	if err != nil {
		return Checkpoint{}, err
	}
	held, err := ParseCheckpoint(c.Held, verifiers)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint that is kept elsewhere: %w", err)
	}
	return held, nil
}

// resume goes to the end of the log. It reads the segments from the last
// checkpoint on, which must be of this log: what it covers cannot have been cut
// off. What lies before is for Verify.
func (w *writer) resume(firsts []uint64, cfg Config) (*Repair, error) {
	held, err := cfg.held()
	if err != nil {
		return nil, err
	}
	from, err := w.findCheckpoint(firsts)
	if err != nil {
		return nil, untouched(err)
	}
	if w.foreign, err = signedByAnother(w.signed.last, cfg.Key); err != nil {
		return nil, untouched(&TamperError{File: filepath.Join(w.dir, checkpointsName(from)), Sequence: from, Through: w.signed.last.Size, Reason: err.Error()})
	}
	if held.Note != nil {
		from = min(from, max(held.Size, firsts[0]))
	}
	r, err := openReader(w.dir, from)
	if err != nil {
		return nil, untouched(err)
	}
	defer r.close()
	w.index = newIndexBuilder(r.first)
	last := &w.signed.last
	for err == nil {
		for _, c := range []*Checkpoint{last, &held} {
			if c.Note != nil && r.seq == c.Size && r.tree.root() != c.Root {
				return nil, untouched(r.hashedAnew(r.first, c))
			}
		}
		off, first := r.off, r.first
		var record []byte
		if record, err = r.next(); err == nil {
			if r.first != first {
				w.index, off = newIndexBuilder(r.first), int64(headerSize(r.first))
			}
			w.index.add(readClear(record), off, r.leaf)
		} else if errors.Is(err, io.EOF) && r.first != first {
			w.index = newIndexBuilder(r.first)
		}
	}
	if errors.Is(err, io.EOF) {
		switch {
		case last.Note != nil && r.seq < last.Size:
			err = r.cutOff(last)
		case r.seq < held.Size:
			err = r.cutOff(&held)
		case last.Note == nil && r.seq >= firsts[0]:
			err = r.unsigned(firsts[0])
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, untouched(err)
	}
	w.first, w.segments, w.unsigned = r.first, len(firsts), r.seq-last.Size
	w.durable = position{r.off, r.tree}
	w.written.set(&w.durable)
	if w.file, err = os.OpenFile(r.path, os.O_RDWR|syscall.O_NOFOLLOW, 0); err != nil {
		return nil, err
	}
	if r.torn == 0 {
		// A killed process may have left whole records that were not synced.
		return nil, w.sync(w.file)
	}
	repair := &Repair{File: r.path, Offset: r.off, Bytes: r.torn}
	if repair.Saved, err = w.cut(); err != nil {
		return nil, fmt.Errorf("cut off the torn tail of %s: %w", r.path, err)
	}
	return repair, nil
}

// findCheckpoint finds the last checkpoint and returns the segment to read from.
// Every segment but the last must end with a checkpoint.
func (w *writer) findCheckpoint(firsts []uint64) (from uint64, err error) {
	orphan, err := orphaned(w.dir, firsts)
	if err == nil && orphan != 0 {
		err = missing(w.dir, orphan)
	}
	if err != nil {
		return 0, err
	}
	from = firsts[0]
	for i, first := range firsts {
		if err := w.checkHeader(first); err != nil {
			return 0, err
		}
		all, err := readCheckpoints(w.dir, first, nil)
		if err != nil {
			return 0, err
		}
		if len(all) > 0 {
			w.signed.last, from = all[len(all)-1], first
		}
		if i+1 < len(firsts) && (len(all) == 0 || w.signed.last.Size+1 != firsts[i+1]) {
			return 0, &TamperError{File: filepath.Join(w.dir, segmentName(first)), Sequence: w.signed.last.Size + 1,
				Reason: fmt.Sprintf("the next segment begins at record %d, which its last checkpoint does not lead to", firsts[i+1])}
		}
	}
	if n := len(firsts) - 1; w.signed.last.Size+1 == firsts[n] {
		from = firsts[n] // its header is of what the checkpoint covers
	}
	return from, nil
}

// signedByAnother tells whether another key than this has signed a checkpoint. The
// error is that it claims to be signed by this one, and is not.
func signedByAnother(c Checkpoint, key *SigningKey) (bool, error) {
	if c.Note == nil {
		return false, nil
	}
	verifiers, err := ParseVerifiers(key.Public())
	if err != nil {
		return false, err
	}
	_, err = note.Open(c.Note, verifiers)
	if _, forged := errors.AsType[*note.InvalidSignatureError](err); forged {
		return false, errors.New("the signature of the last checkpoint is not genuine")
	}
	return err != nil, nil
}

// checkHeader checks that a segment begins with the tree that the checkpoint
// before it is of.
func (w *writer) checkHeader(first uint64) error {
	before, err := headerTree(w.dir, first)
	reason := "its header does not have the root of the checkpoint before it"
	switch last := &w.signed.last; {
	case errors.Is(err, os.ErrNotExist):
		return err
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		reason = "header is incomplete"
	case err != nil:
		reason = err.Error()
	case before.size+1 != first:
		reason = fmt.Sprintf("header says that it begins at record %d", before.size+1)
	case last.Note == nil || last.Size != before.size || last.Root == before.root():
		return nil
	}
	return &TamperError{File: filepath.Join(w.dir, segmentName(first)), Sequence: first, Reason: reason}
}

// untouched adds to an error that a log does not fit together what to do.
func untouched(err error) error {
	return fmt.Errorf("%w; nothing was changed: put the file back from a copy, or keep the directory as evidence and begin a new log in another one", err)
}

// cut moves what lies behind the last commit to a file of its own.
func (w *writer) cut() (saved string, err error) {
	// A crash at the same place again gets another name.
	f, err := os.CreateTemp(w.dir, fmt.Sprintf("%s.%d.*.torn", segmentName(w.first), w.durable.size))
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, io.NewSectionReader(w.file, w.durable.size, maxCommit))
	if err = errors.Join(err, w.sync(f), f.Close()); err != nil {
		return "", err
	}
	if err := w.sync(w.lock); err != nil {
		return "", err
	}
	if err := w.file.Truncate(w.durable.size); err != nil {
		return "", err
	}
	return filepath.Join(w.dir, filepath.Base(f.Name())), w.sync(w.file)
}
