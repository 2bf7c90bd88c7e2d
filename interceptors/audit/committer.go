package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// probeInterval is how often the committer looks whether the segment is still
// in its place and, after a failure, whether the log can recover.
const probeInterval = 500 * time.Millisecond

// run is the committer, the only goroutine that touches the writer. Everything
// that waits while it is at the disk goes into its next commit.
func (l *Log) run() {
	defer close(l.done)
	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	for {
		select {
		case <-l.wake:
		case <-probe.C:
			l.probe()
		case <-l.quit:
			l.finish()
			return
		}
		l.commit()
	}
}

// finish commits what waits, with one attempt to recover, and lets go.
func (l *Log) finish() {
	l.commit()
	if l.failed() {
		l.probe()
		l.commit()
	}
	l.closeErr = l.w.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.queue); n > 0 {
		l.closeErr = errors.Join(unavailable(fmt.Errorf("close: %d records were not written: %w", n, l.failure)), l.closeErr)
	}
}

// failed needs no lock: only the committer sets failure.
func (l *Log) failed() bool { return l.failure != nil }

// probe makes a failed log work again if its cause is gone, and finds out
// whether a working one still does.
func (l *Log) probe() {
	l.setBusy(time.Now())
	defer l.setBusy(time.Time{})
	if !l.failed() {
		if err := l.w.check(); err != nil {
			l.fail(nil, err)
		}
		return
	}
	err := l.w.recover()
	l.mu.Lock()
	l.failure = err
	l.stats.Segments = l.w.segments
	l.mu.Unlock()
	if err == nil {
		l.cfg.Logger.Info("audit log: works again", slog.Uint64("records", l.w.seq))
	}
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
	for rest := batch; len(rest) > 0; {
		n, seq, sum := l.encodeFrames(rest)
		start := time.Now()
		l.setBusy(start)
		if err := l.w.commit(l.frames, seq, sum); err != nil {
			l.fail(rest, err)
			return
		}
		l.settle(rest[:n], time.Since(start))
		rest = rest[n:]
	}
	clear(batch)
	l.spare = batch
}

// encodeFrames encodes the frames of one commit and returns how many entries of
// batch it takes, and the sequence and the chain hash of the last of them.
func (l *Log) encodeFrames(batch []*entry) (n int, seq uint64, sum hash) {
	l.frames, l.chain.sum, seq = l.frames[:0], l.w.sum, l.w.seq
	for _, e := range batch {
		if n > 0 && len(l.frames)+len(e.record)+frameOverhead > maxCommit {
			break
		}
		n, seq = n+1, seq+1
		l.frames = l.chain.appendFrame(l.frames, e.record, seq)
	}
	return n, seq, l.chain.sum
}

// settle tells those who wait that their records are on disk.
func (l *Log) settle(batch []*entry, took time.Duration) {
	l.mu.Lock()
	for _, e := range batch {
		if !e.wait {
			l.enqueued--
		}
	}
	l.busy = time.Time{}
	l.stats.Records = l.w.seq
	l.stats.Segments = l.w.segments
	l.stats.Bytes += uint64(len(l.frames))
	l.stats.Commits++
	l.stats.LastCommit = took
	l.mu.Unlock()
	for _, e := range batch {
		if e.wait {
			e.done <- nil // then e is its receiver's
		} else {
			l.release(e)
		}
	}
}

// fail makes the log unavailable and tells all who wait. The records that
// nobody waits for stay in the queue, in their order.
func (l *Log) fail(batch []*entry, cause error) {
	l.mu.Lock()
	batch = slices.Concat(batch, l.queue)
	l.queue = nil
	for _, e := range batch {
		if !e.wait {
			l.queue = append(l.queue, e)
		}
	}
	l.failure = cause
	l.stats.Failures++
	l.busy = time.Time{}
	l.mu.Unlock()
	l.cfg.Logger.Error("audit log: unavailable", slog.String("error", cause.Error()))
	for _, e := range batch {
		if e.wait {
			e.done <- unavailable(cause)
		}
	}
}
