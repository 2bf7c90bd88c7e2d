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
	e, err := l.encode(&auditv1.Record{
		Kind: auditv1.Kind_KIND_RETENTION, Time: timestamppb.New(l.cfg.now()), RemovedThrough: through,
		Detail: fmt.Sprintf("the records up to %d in %d segments have reached the end of their retention and are deleted", through, n),
	})
	if err != nil {
		panic(err) // it is a small record
	}
	e.durability = Async
	l.mu.Lock()
	l.queue = append(l.queue, e)
	l.mu.Unlock()
	l.commit()
	if !l.flush() || !l.checkpoint() {
		return
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

// atHousekeeping does something that touches the disk and that the log can do
// without: only a disk that hangs in it is the log's failure.
func (l *Log) atHousekeeping(do func() error) error {
	l.setBusy(time.Now())
	defer l.setBusy(time.Time{})
	return do()
}

// expired lists the segments and tells how many of the first of them are to go. A
// segment that has no index yet stays.
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
		x, err := openIndex(l.cfg.Dir, firsts[n])
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, errIndex) {
				err = nil
			}
			return firsts, n, err
		}
		x.close()
		old := l.cfg.Retention.MaxAge > 0 && x.to < oldest
		if !old && (l.cfg.Retention.MaxBytes == 0 || total <= l.cfg.Retention.MaxBytes) {
			break
		}
		total -= sizes[n]
		n++
	}
	return firsts, n, nil
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
	r, err := openReader(dir, first)
	if err != nil {
		return err
	}
	defer r.close()
	b := newIndexBuilder(first)
	for r.seq+1 < next {
		off := r.off
		record, err := r.next()
		if err != nil {
			return err
		}
		b.add(readClear(record), off, r.leaf)
	}
	return b.write(dir, r.off, sync)
}
