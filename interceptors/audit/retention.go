package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// Retention says which of the oldest segments are deleted, whole ones only. The
// zero value of a field sets no bound.
type Retention struct {
	// MaxAge is how old the last record of a segment may be.
	MaxAge time.Duration
	// MaxBytes is how long all segments together may be.
	MaxBytes int64
}

func (r Retention) negative() bool { return r.MaxAge < 0 || r.MaxBytes < 0 }

// retain deletes what is older than it may be. That records are going to be
// missing is on record, and signed, before the first is deleted: who deletes
// others is found out by Verify.
func (l *Log) retain() {
	if l.failed() || l.cfg.Retention == (Retention{}) {
		return
	}
	var firsts []uint64
	var n int
	err := l.atHousekeeping(func() (err error) {
		firsts, n, err = l.expired()
		return err
	})
	if err != nil {
		l.cfg.Logger.Warn("audit log: retention", slog.String("error", err.Error()))
		return
	}
	if n == 0 {
		return
	}
	through := firsts[n] - 1
	if through > l.removing { // else it is on record, and only deleting failed
		if !l.recordRemoval(through, n) {
			return
		}
		l.removing = through
	}
	if err := l.atHousekeeping(func() error { return removeSegments(l.cfg.Dir, firsts[:n], l.cfg.sync) }); err != nil {
		l.cfg.Logger.Warn("audit log: retention", slog.String("error", err.Error()))
		return
	}
	l.w.segments -= n
	l.mu.Lock()
	l.stats.Segments = l.w.segments
	l.mu.Unlock()
	l.cfg.Logger.Info("audit log: old segments deleted", slog.Int("segments", n), slog.Uint64("through_record", through))
}

// recordRemoval puts it on record, signed, that the records up to through are
// deleted. It returns false if the log has failed.
func (l *Log) recordRemoval(through uint64, segments int) bool {
	statement, err := l.cfg.Key.signRemoval(through)
	if err != nil {
		l.cfg.Logger.Error("audit log: retention", slog.String("error", err.Error()))
		return false
	}
	e, err := l.encode(&auditv1.Record{
		Kind: auditv1.Kind_KIND_RETENTION, Time: timestamppb.New(l.cfg.now()), RemovedThrough: through, Removal: statement,
		Detail: fmt.Sprintf("the records up to %d in %d segments have reached the end of their retention and are deleted", through, segments),
	})
	if err != nil {
		panic(err) // it is a small record
	}
	e.durability = Async
	l.mu.Lock()
	l.queue = append(l.queue, e)
	l.mu.Unlock()
	l.commit()
	return l.flush() && l.checkpoint()
}

// atHousekeeping does something that touches the disk and that the log can do
// without: only a disk that hangs in it is the log's failure.
func (l *Log) atHousekeeping(do func() error) error {
	l.setBusy(time.Now())
	defer l.setBusy(time.Time{})
	return do()
}

// expired lists the segments and tells how many of the first of them are to go.
func (l *Log) expired() (firsts []uint64, n int, err error) {
	if firsts, err = segments(l.cfg.Dir); err != nil {
		return nil, 0, err
	}
	var total int64
	sizes := make([]int64, len(firsts))
	for i, first := range firsts {
		info, err := os.Stat(filepath.Join(l.cfg.Dir, segmentName(first)))
		if err != nil {
			return nil, 0, err
		}
		sizes[i] = info.Size()
		total += sizes[i]
	}
	oldest := l.cfg.now().Add(-l.cfg.Retention.MaxAge).UnixNano()
	for n < len(firsts)-1 && firsts[n] != l.w.first {
		large := l.cfg.Retention.MaxBytes > 0 && total > l.cfg.Retention.MaxBytes
		if !large && (l.cfg.Retention.MaxAge == 0 || l.seemsYoung(firsts[n], firsts[n+1], oldest)) {
			break
		}
		// An index can be made to say anything: what is deleted is read.
		newest, err := newestRecord(l.cfg.Dir, firsts[n], firsts[n+1])
		if err != nil {
			return firsts, n, err
		}
		if !large && newest >= oldest {
			break
		}
		total -= sizes[n]
		n++
	}
	return firsts, n, nil
}

// seemsYoung tells whether the index of a segment says that it is not old. It is made
// anew if it is missing or damaged.
func (l *Log) seemsYoung(first, next uint64, oldest int64) bool {
	x, err := openIndex(l.cfg.Dir, first)
	if err != nil && buildIndex(l.cfg.Dir, first, next, l.cfg.sync) == nil {
		x, err = openIndex(l.cfg.Dir, first)
	}
	if err != nil {
		return false // reading the segment tells why
	}
	defer x.close()
	return x.to >= oldest
}

// newestRecord reads the segment that begins with first and is followed by the one
// that begins with next, and returns the time of its newest record. The segment must
// be what the tree in the next one's header and its own last checkpoint are of: what
// does not fit is not deleted, but left for Verify to find.
func newestRecord(dir string, first, next uint64) (int64, error) {
	b, r, err := readSegment(dir, first, next)
	if err != nil {
		return 0, err
	}
	after, err := headerTree(dir, next)
	if err != nil {
		return 0, err
	}
	signed, err := readCheckpoints(dir, first, nil)
	if err != nil {
		return 0, err
	}
	if !after.equal(&r.tree) || len(signed) == 0 || signed[len(signed)-1].Size != r.seq || signed[len(signed)-1].Root != r.tree.root() {
		return 0, r.tampered("the segment is not what its checkpoint and the next segment are of: it is not deleted")
	}
	return b.to, nil
}

// removeSegments deletes segments, the oldest first, and what stands beside them or
// beside such as were deleted before.
func removeSegments(dir string, firsts []uint64, sync func(*os.File) error) error {
	for _, first := range firsts {
		if err := os.Remove(filepath.Join(dir, segmentName(first))); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	last := firsts[len(firsts)-1]
	for _, e := range entries {
		stem, kind, _ := strings.Cut(e.Name(), ".")
		if first, err := strconv.ParseUint(stem, 10, 64); err != nil || first > last || "."+kind != checkpointsSuffix && "."+kind != indexSuffix {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return syncDirectory(dir, sync)
}

// completeIndexes makes the indexes that a crash left missing or damaged. It ends
// early when the log is closed.
func (l *Log) completeIndexes() {
	firsts, err := segments(l.cfg.Dir)
	if err != nil {
		return // the committer finds out
	}
	for i := 0; i+1 < len(firsts); i++ {
		select {
		case <-l.quit:
			return
		default:
		}
		x, err := openIndex(l.cfg.Dir, firsts[i])
		if err == nil {
			x.close()
			continue
		}
		if err := buildIndex(l.cfg.Dir, firsts[i], firsts[i+1], l.cfg.sync); err != nil {
			l.cfg.Logger.Warn("audit log: index not made anew", slog.String("segment", segmentName(firsts[i])), slog.String("error", err.Error()))
		}
	}
}

// buildIndex makes the index of the segment that begins with first and is followed
// by the one that begins with next.
func buildIndex(dir string, first, next uint64, sync func(*os.File) error) error {
	b, r, err := readSegment(dir, first, next)
	if err != nil {
		return err
	}
	return b.write(dir, r.off, sync)
}

// readSegment reads all of a segment. The reader that it returns is closed, at the
// segment's end.
func readSegment(dir string, first, next uint64) (*indexBuilder, *reader, error) {
	r, err := openReader(dir, first)
	if err != nil {
		return nil, nil, err
	}
	defer r.close()
	b := newIndexBuilder(first)
	for r.seq+1 < next {
		off := r.off
		record, err := r.next()
		if err != nil {
			return nil, nil, err
		}
		b.add(readClear(record), off, r.leaf)
	}
	return b, r, nil
}
