package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// VerifyConfig says what a log is held against. The zero value is usable.
type VerifyConfig struct {
	// PublicKeys are the keys that may have signed the log's checkpoints. Without
	// any, those count that the log's directory lists, which whoever replaces the
	// log replaces too.
	PublicKeys []string
	// Checkpoints are checkpoints of the log that were kept elsewhere, signed by one
	// of the keys. The log must hold all that they cover.
	Checkpoints [][]byte
}

// Report is what Verify found, up to the first thing that does not fit.
type Report struct {
	// Segments is the number of segment files.
	Segments int
	// Removed is how many records retention has deleted before the first.
	Removed uint64
	// Records is the sequence of the last record.
	Records uint64
	// Bytes is the length of all segments without a torn tail.
	Bytes int64
	// First and Last are the times of the first and the last record.
	First, Last time.Time
	// Checkpoints is how many checkpoints of the log's own fit.
	Checkpoints int
	// Given is how many of VerifyConfig.Checkpoints fit. Those of fewer records than
	// Removed are not among them: they are of what is deleted. If all are, Verify
	// returns an error.
	Given int
	// Checkpoint is the last one that fits; its Note is nil if there is none.
	Checkpoint Checkpoint
	// Keys are the keys that signed what fits, "name+hash".
	Keys []string
	// KeysFromLog tells that the keys are those that the directory lists.
	KeysFromLog bool
	// TornTail is the length in bytes of what a crash, or a commit that is being
	// written right now, left behind the last record. Open cuts it off.
	TornTail int64
}

// Uncovered is how many records the last checkpoint does not cover: whoever may
// write to the log can still change them unseen.
func (r *Report) Uncovered() uint64 { return r.Records - min(r.Records, r.Checkpoint.Size) }

// Verify rehashes every record in dir and compares the tree with every checkpoint.
// It returns a *TamperError that names the first place that does not fit: a byte
// changed anywhere, a record dropped, inserted or moved, a segment missing, renamed
// or there twice, a log cut off before one of its checkpoints or replaced, a
// checkpoint of another log. Where records were hashed anew it names the records
// among which they are, from one checkpoint to the next, or, if the segment's index
// still has the hashes that were signed, the record. Memory is bounded by the
// number of records of a segment. The log may be written to meanwhile.
//
// Without Checkpoints kept elsewhere, whoever has the key can have replaced it all,
// and whoever may write to the directory can have cut it off at a checkpoint.
func Verify(dir string, cfg VerifyConfig) (Report, error) {
	const most = 10
	for n := 1; ; n++ {
		report, err := verify(dir, cfg)
		if err == nil {
			return report, nil
		}
		// Retention may have deleted what was being read; then what is left has to
		// fit together.
		if firsts, again := segments(dir); again != nil || len(firsts) == 0 || firsts[0] <= report.Removed+1 || n == most {
			return report, fmt.Errorf("verify audit log: %w", err)
		}
	}
}

func verify(dir string, cfg VerifyConfig) (report Report, err error) {
	v := &verification{dir: dir, report: &report}
	keys := cfg.PublicKeys
	if len(keys) == 0 {
		report.KeysFromLog = true
		if keys, err = publicKeys(dir); errors.Is(err, os.ErrNotExist) {
			keys, err = nil, nil // then nothing that is signed verifies
		}
		if err != nil {
			return report, err
		}
	}
	if v.verifiers, err = ParseVerifiers(keys...); err != nil {
		return report, err
	}
	for i, given := range cfg.Checkpoints {
		c, err := ParseCheckpoint(given, v.verifiers)
		if err != nil {
			return report, fmt.Errorf("checkpoint %d of those given: %w", i+1, err)
		}
		v.given = append(v.given, c)
	}
	v.outside = len(v.given) > 0
	slices.SortStableFunc(v.given, func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	if v.r, err = openReader(dir, 1); err != nil {
		return report, err
	}
	defer v.r.close()
	report.Removed = v.r.first - 1
	err = v.run()
	report.Segments = v.r.segments
	report.Records = v.r.seq
	report.Bytes = v.r.bytes + v.r.off
	report.TornTail = v.r.torn
	return report, err
}

// errOutdated says that no checkpoint that was given tells anything.
var errOutdated = errors.New("the checkpoints given are all from before what retention has left: give a newer one")

// verification is one pass over a log.
type verification struct {
	dir       string
	verifiers note.Verifiers
	r         *reader
	report    *Report

	given   []Checkpoint // not met yet, the smallest first
	outside bool         // whether there were any
	agreed  uint64       // the record up to which one of those given has vouched

	// Of the segment at hand.
	first   uint64
	own     []Checkpoint // not met yet
	covered bool         // whether the last record is covered by a checkpoint of its own
	index   *indexBuilder

	// good is the record up to which a checkpoint has vouched.
	good uint64
	// removed is up to where retention has deleted records, as the log's key has signed.
	removed uint64
}

func (v *verification) run() error {
	r := v.r
	// Before the segments, to which more may come meanwhile.
	beside, err := listCheckpoints(v.dir)
	if err != nil {
		return err
	}
	if err := v.enter(); err != nil {
		return err
	}
	removed := r.first - 1
	v.good, v.agreed = removed, removed
	for len(v.given) > 0 && v.given[0].Size < removed {
		v.given = v.given[1:]
	}
	if err := v.meet(); err != nil {
		return err
	}
	for {
		off := r.off
		raw, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if r.first != v.first {
			if err := v.leave(); err != nil {
				return err
			}
			off = int64(headerSize(r.first))
		}
		record, err := r.check(raw)
		if err != nil {
			return err
		}
		v.index.add(record, off, r.leaf)
		v.report.Last = record.time()
		if r.seq == removed+1 {
			v.report.First = v.report.Last
		}
		if record.removedThrough > v.removed && isRemoval(record.removal, record.removedThrough, v.verifiers) {
			v.removed = record.removedThrough
		}
		if err := v.meet(); err != nil {
			return err
		}
	}
	if r.first != v.first {
		if err := v.leave(); err != nil {
			return err
		}
	}
	for _, c := range append(v.own, v.given...) {
		return r.cutOff(&c)
	}
	if v.outside && v.report.Given == 0 {
		return errOutdated
	}
	if len(beside) > 0 && beside[len(beside)-1] > r.first {
		return missing(v.dir, beside[len(beside)-1])
	}
	if v.removed < removed {
		return &TamperError{File: filepath.Join(v.dir, segmentName(1)), Sequence: v.removed + 1, Through: removed,
			Reason: "segment is missing, and no retention has deleted it"}
	}
	if v.report.Checkpoint.Note == nil {
		return r.unsigned(removed + 1)
	}
	return nil
}

// enter begins the segment that the reader is in.
func (v *verification) enter() (err error) {
	v.first, v.covered = v.r.first, false
	v.index = newIndexBuilder(v.first)
	v.own, err = readCheckpoints(v.dir, v.first, v.verifiers)
	return err
}

// leave ends a segment that the reader has left, and enters the next.
func (v *verification) leave() error {
	next := v.r.first
	path := filepath.Join(v.dir, segmentName(v.first))
	if !v.covered && v.good+1 < next {
		if err := v.signedMeanwhile(next - 1); err != nil {
			return err
		}
	}
	if v.good+1 < next {
		return &TamperError{File: path, Sequence: v.good + 1, Through: next - 1,
			Reason: "the segment does not end with a checkpoint: those beside it were removed"}
	}
	for _, c := range v.own {
		return &TamperError{File: path, Sequence: next, Reason: fmt.Sprintf("there is a checkpoint of %d records beside it, but it ends with record %d", c.Size, next-1)}
	}
	if err := v.compareIndex(); err != nil {
		return err
	}
	return v.enter()
}

// signedMeanwhile looks for the checkpoint at the end of the segment that was read,
// which may have been made since its reading began.
func (v *verification) signedMeanwhile(size uint64) error {
	all, err := readCheckpoints(v.dir, v.first, v.verifiers)
	if err != nil || len(all) == 0 || all[len(all)-1].Size != size {
		return err
	}
	// The reader has compared the header with the records.
	end, err := headerTree(v.dir, v.r.first)
	if err != nil {
		return err
	}
	return v.vouch(&all[len(all)-1], end.root())
}

// meet compares the tree with the checkpoints of as many records.
func (v *verification) meet() error {
	own := len(v.own) > 0 && v.own[0].Size == v.r.seq
	given := len(v.given) > 0 && v.given[0].Size == v.r.seq
	v.covered = own
	if !own && !given {
		return nil
	}
	root := v.r.tree.root()
	if own {
		if err := v.vouch(&v.own[0], root); err != nil {
			return err
		}
		v.own = v.own[1:]
		v.report.Checkpoints++
	}
	for len(v.given) > 0 && v.given[0].Size == v.r.seq {
		// What the log's own say does not matter: whoever replaced it has the key.
		if c := &v.given[0]; c.Root != root {
			return v.hashedAnew(v.agreed+1, c)
		}
		if err := v.vouch(&v.given[0], root); err != nil {
			return err
		}
		v.agreed = v.r.seq
		v.given = v.given[1:]
		v.report.Given++
	}
	return nil
}

// vouch compares a checkpoint with the root of the records that it covers.
func (v *verification) vouch(c *Checkpoint, root hash) error {
	if c.Root != root {
		return v.hashedAnew(v.good+1, c)
	}
	v.good, v.report.Checkpoint = c.Size, *c
	for _, k := range c.Keys {
		if !slices.Contains(v.report.Keys, k) {
			v.report.Keys = append(v.report.Keys, k)
		}
	}
	return nil
}
