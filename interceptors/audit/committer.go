package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"
)

const (
	// probeInterval is how often the committer looks whether the segment is still
	// in its place and, after a failure, whether the log can recover.
	probeInterval = 500 * time.Millisecond
	// flushInterval is how long records that nobody waits to be on disk may be
	// with the operating system only.
	flushInterval = 100 * time.Millisecond
	// retainInterval is how often old segments are looked for.
	retainInterval = 10 * time.Second
)

// run is the committer, the only goroutine that touches the writer. Everything
// that waits while it is at the disk goes into its next commit.
func (l *Log) run() {
	defer close(l.done)
	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	sign := time.NewTicker(l.cfg.CheckpointInterval)
	defer sign.Stop()
	retain := time.NewTicker(l.cfg.retain)
	defer retain.Stop()
	for {
		select {
		case <-l.wake:
			l.gather()
		case <-l.flushDue:
			l.flush()
		case <-probe.C:
			l.probe()
		case <-sign.C:
			l.checkpoint()
		case <-retain.C:
			l.retain()
		case <-l.quit:
			l.finish()
			return
		}
		l.commit()
	}
}

// gather lets those come along who are about to append, as long as more come. On busy
// processors that is many records a commit instead of a few; on idle ones nothing is
// waited for.
func (l *Log) gather() {
	const most = 16 // times
	before := 0
	for range most {
		l.mu.Lock()
		waiting := len(l.queue)
		l.mu.Unlock()
		if waiting == before {
			return
		}
		before = waiting
		runtime.Gosched()
	}
}

// finish commits what waits, with one attempt to recover, signs it and lets go.
func (l *Log) finish() {
	l.commit()
	// No probe comes after this: what went to a file that has lost its place is not
	// where it is looked for.
	if !l.failed() {
		l.atDisk(l.w.check)
	}
	if l.flush(); l.failed() {
		l.probe()
		l.commit()
	}
	l.flush()
	l.checkpoint()
	l.indexing.Wait()
	l.closeErr = l.w.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.queue); n > 0 {
		l.closeErr = errors.Join(unavailable(fmt.Errorf("close: %d records were not written: %w", n, l.failure)), l.closeErr)
	} else if l.failure != nil {
		l.closeErr = errors.Join(unavailable(fmt.Errorf("close: %w", l.failure)), l.closeErr)
	}
}

// failed needs no lock: only the committer sets failure.
func (l *Log) failed() bool { return l.failure != nil }

// probe makes a failed log work again if its cause is gone, and finds out
// whether a working one still does.
func (l *Log) probe() {
	if !l.failed() {
		l.atDisk(l.w.check)
		return
	}
	l.setBusy(time.Now())
	defer l.setBusy(time.Time{})
	left := l.leaving()
	err := l.w.recover(l.cfg.Key)
	l.mu.Lock()
	l.failure = err
	l.stats.Segments = l.w.segments
	l.mu.Unlock()
	if err == nil {
		l.left(left)
		l.announce()
		l.cfg.Logger.Info("audit log: works again", slog.Uint64("records", l.w.durable.tree.size))
	}
}

// atDisk does something that touches the disk and makes its failure the log's.
func (l *Log) atDisk(do func() error) bool {
	l.setBusy(time.Now())
	err := do()
	l.setBusy(time.Time{})
	if err != nil {
		l.fail(err)
	}
	return err == nil
}

// setBusy marks when the committer goes to the disk, and with zero that it is
// back, for err to notice a disk that hangs.
func (l *Log) setBusy(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = t
}

// commit writes all that waits, in as few commits as their bound allows.
func (l *Log) commit() {
	if l.failed() {
		return
	}
	l.mu.Lock()
	batch := l.queue
	l.queue = l.spare[:0]
	l.mu.Unlock()
	l.spare = nil
	for l.rest = batch; len(l.rest) > 0; {
		if l.w.full() && !l.rotate() {
			return
		}
		if l.cfg.Sealer != nil && l.w.written.tree.size+1 == l.w.first {
			l.rest = slices.Insert(l.rest, 0, l.keyEntry())
		}
		n := l.encodeFrames(l.rest)
		if !l.atDisk(func() error { return l.w.write(l.frames, &l.end) }) {
			return
		}
		l.indexFrames(l.rest[:n])
		flush := l.written(l.rest[:n])
		l.rest = l.rest[n:]
		if flush && !l.flush() {
			return
		}
	}
	clear(batch)
	l.spare = batch
	if len(l.unsynced) > 0 && l.flushDue == nil {
		l.flushDue = time.After(flushInterval)
	}
}

// encodeFrames encodes the frames of one commit and returns how many entries of
// batch it takes. What is written and not flushed counts against its bound.
func (l *Log) encodeFrames(batch []*entry) (n int) {
	l.frames = l.frames[:0]
	l.leaves = l.leaves[:0]
	l.end.set(&l.w.written.tree)
	room := maxCommit - int(l.w.written.size-l.w.durable.size)
	for _, e := range batch {
		if n > 0 && len(l.frames)+len(e.record)+frameOverhead > room {
			break
		}
		n++
		var leaf hash
		e.off = len(l.frames)
		l.frames, leaf = l.hasher.appendFrame(l.frames, e.record, l.end.size+1)
		l.end.add(leaf)
		l.leaves = append(l.leaves, leaf)
	}
	return n
}

// indexFrames adds what encodeFrames encoded to the index.
func (l *Log) indexFrames(batch []*entry) {
	start := l.w.written.size - int64(len(l.frames))
	for i, e := range batch {
		l.w.index.add(readIndexed(e.record), start+int64(e.off), l.leaves[i])
	}
}

// written takes note that entries are with the operating system, tells those who
// wait for no more, and returns whether the rest has to be on disk now.
func (l *Log) written(batch []*entry) (flush bool) {
	for _, e := range batch {
		switch {
		case e.durability != Written:
			flush = true
		case e.waits: // else it was told before the disk failed
			e.waits = false
			e.done <- nil // the receiver leaves e alone then
		}
	}
	l.unsynced = append(l.unsynced, batch...)
	return flush || l.w.written.size-l.w.durable.size >= maxCommit/2
}

// flush waits until all that was written is on disk.
func (l *Log) flush() bool {
	l.flushDue = nil
	if l.failed() {
		return false
	}
	if len(l.unsynced) == 0 {
		return true
	}
	start := time.Now()
	if !l.atDisk(l.w.flush) {
		return false
	}
	l.settle(time.Since(start))
	return true
}

// settle tells those who wait that their records are on disk.
func (l *Log) settle(took time.Duration) {
	l.mu.Lock()
	for _, e := range l.unsynced {
		if e.queued {
			l.enqueued--
			e.queued = false
		}
	}
	l.busy = time.Time{}
	l.stats.Records = l.w.durable.tree.size
	l.stats.Segments = l.w.segments
	l.stats.Bytes += uint64(l.w.durable.size - l.settled) //nolint:gosec // it only grows
	l.settled = l.w.durable.size
	l.stats.Commits++
	l.stats.LastCommit = took
	l.mu.Unlock()
	for i, e := range l.unsynced {
		switch {
		case e.waits:
			e.done <- nil // then e is its receiver's
		case e.durability == Async:
			l.release(e)
		}
		l.unsynced[i] = nil
	}
	l.unsynced = l.unsynced[:0]
}

// fail makes the log unavailable and tells all who wait. The records that
// nobody waits for any more stay in the queue, in their order, to be written
// again.
func (l *Log) fail(cause error) {
	l.mu.Lock()
	all := slices.Concat(l.unsynced, l.rest, l.queue)
	l.unsynced, l.rest, l.queue, l.flushDue = nil, nil, nil, nil
	for _, e := range all {
		// What is the log's own is made again when it is needed.
		if e.queued || e.durability == Written && !e.waits {
			l.queue = append(l.queue, e)
		}
	}
	l.failure = cause
	l.stats.Failures++
	l.busy = time.Time{}
	l.mu.Unlock()
	l.cfg.Logger.Error("audit log: unavailable", slog.String("error", cause.Error()))
	for _, e := range all {
		if e.waits {
			e.done <- unavailable(cause)
		}
	}
}

// rotate goes over to a new segment. It returns false if the log has failed.
func (l *Log) rotate() bool {
	if !l.flush() || !l.checkpoint() {
		return false
	}
	left := l.leaving()
	if !l.atDisk(l.w.rotate) {
		return false
	}
	l.left(left)
	return true
}

// segment is one that the log goes on from.
type segment struct {
	first uint64
	size  int64
	index *indexBuilder
}

func (l *Log) leaving() segment { return segment{l.w.first, l.w.durable.size, l.w.index} }

// left writes the index of a segment that is full now.
func (l *Log) left(s segment) {
	l.settled = l.w.durable.size
	if s.first == l.w.first {
		return // it had no record and was replaced
	}
	l.indexing.Go(func() {
		if err := s.index.write(l.cfg.Dir, s.size, l.cfg.sync); err != nil {
			l.cfg.Logger.Warn("audit log: index not written; call ids of the segment are looked for by reading it",
				slog.String("segment", segmentName(s.first)), slog.String("error", err.Error()))
		}
	})
}

// checkpoint signs what is on disk. It returns false if the log has failed.
func (l *Log) checkpoint() bool {
	if l.failed() {
		return false
	}
	if !l.atDisk(func() error { return l.w.checkpoint(l.cfg.Key) }) {
		return false
	}
	l.announce()
	return true
}

// announce tells of the last checkpoint, once.
func (l *Log) announce() {
	last := l.w.signed.last
	if last.Note == nil || l.announced && last.Size == l.told {
		return
	}
	l.announced, l.told = true, last.Size
	l.mu.Lock()
	l.stats.Checkpoint = last.Size
	l.mu.Unlock()
	if l.cfg.Checkpointed != nil {
		l.cfg.Checkpointed(last)
	}
}
