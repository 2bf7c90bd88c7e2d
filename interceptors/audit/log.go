// Package audit keeps the record of every call: an append-only log of Protobuf
// records in segment files, committed in groups and, unless a call may do with
// less, synced before anybody is answered. The records are the leaves of a Merkle
// tree (RFC 6962), of which the log signs checkpoints, so that a change can be
// seen and a single record proved.
//
// Log is the one writer of a directory. A View reads it, and Verify checks it, from
// any process, while it is written or at rest.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// ErrUnavailable says that the log cannot promise that a record is on disk. The
// error that wraps it says why, for the operator.
var ErrUnavailable = errors.New("audit log unavailable")

var errClosed = errors.New("closed")

// Durability is what Append waits for. What was acknowledged survives failures of
// the disk in every case, as long as the process lives: it is written again.
type Durability uint8

const (
	// Required waits until the record is on disk, which the machine's death does not
	// undo.
	Required Durability = iota
	// Written waits until the record is with the operating system, which the
	// process's death does not undo. It is on disk a tenth of a second later.
	Written
	// Async waits for nothing.
	Async
)

// Config is where a log is and how it behaves. Dir and Key are required.
type Config struct {
	// Dir is the directory of the segments, for this log alone. It is created
	// with mode 0700; one that others may write to is refused.
	Dir string
	// Key signs the checkpoints.
	Key *SigningKey
	// CheckpointInterval is how often a checkpoint is made if there are new records:
	// default 5 s. One is made besides at the end of each segment, at Open and at
	// Close.
	CheckpointInterval time.Duration
	// Held is a checkpoint of the log that was kept elsewhere, such as the last one that
	// a witness has: a log that does not hold all that it covers is not opened, since
	// going on would sign it. Optional.
	Held []byte
	// Checkpointed is told of each checkpoint, in their order. It must not block.
	// Optional.
	Checkpointed func(Checkpoint)
	// Sealer encrypts the records. Nil: they are not encrypted.
	Sealer *Sealer
	// Retention says which old segments are deleted; zero: none.
	Retention Retention
	// SegmentBytes is the length at which a segment is full: default 64 MiB. The
	// last commit may go past it by up to 4 MiB.
	SegmentBytes int64
	// Queue is how many records of Enqueue may wait: default 4096.
	Queue int
	// Timeout is the longest that Append and Close wait: default 5 s.
	Timeout time.Duration
	// Logger hears of repairs, failures and recoveries; default: nobody.
	Logger *slog.Logger

	sync     func(*os.File) error
	syncData func(*os.File) error // of records only; sync where a test sets that
	now      func() time.Time
	retain   time.Duration // how often old segments are looked for
}

// Stats is what a log did and how it is. Records and Segments count the whole
// log, the rest counts since Open.
type Stats struct {
	Records  uint64 // durable records, hence the last sequence
	Segments int
	Bytes    uint64 // committed, hashes included
	Commits  uint64
	// LastCommit is how long the last commit took to be on disk.
	LastCommit time.Duration
	// Queue is how many records wait for their commit.
	Queue int
	// Failures counts how often the log became unavailable.
	Failures uint64
	// Checkpoint is how many records the last checkpoint covers.
	Checkpoint uint64
}

// Log writes the audit log. Its methods may be called concurrently.
type Log struct {
	cfg    Config
	repair *Repair

	entries  sync.Pool
	wake     chan struct{}
	quit     chan struct{}
	done     chan struct{}
	closeErr error // set before done is closed

	// The committer's own.
	w         *writer
	hasher    *leafHasher
	frames    []byte
	leaves    []hash           // of frames
	end       tree             // after frames
	rest      []*entry         // of the batch at hand, not written yet
	unsynced  []*entry         // written, and not on disk yet
	flushDue  <-chan time.Time // nil unless some must be on disk soon
	settled   int64            // up to where the last segment counts as committed
	spare     []*entry
	told      uint64 // size of the checkpoint that was announced last
	announced bool   // whether one was
	removing  uint64 // up to where it is on record that retention deletes
	indexing  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	queue    []*entry
	enqueued int // entries of Enqueue that are not durable yet
	failure  error
	closed   bool
	busy     time.Time // when the committer went to the disk; zero if it is not there
	stats    Stats
}

// entry is a record on its way to the disk.
type entry struct {
	record     []byte // encoded without its sequence
	durability Durability
	waits      bool // whether Append still waits for it
	queued     bool // whether it counts against the queue
	off        int  // in the frames of its commit
	done       chan error
	timer      *time.Timer
}

// Open opens the log in cfg.Dir, or begins one, and locks it: there is one
// writer at a time, and another gets an error that wraps ErrLocked. It verifies
// the log from its last checkpoint on, and that this is of the same log, so that it
// takes no longer for a long log; Verify checks all of it. What a crash left at its
// end is cut off, kept in a file beside it and told by Repaired; anything else
// that does not fit together is a *TamperError, and then nothing is changed.
// Close the log to end its goroutine.
func Open(cfg Config) (*Log, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open audit log: no directory given")
	}
	if cfg.Key == nil {
		return nil, errors.New("open audit log: no key to sign checkpoints with")
	}
	if cfg.SegmentBytes < 0 || cfg.Queue < 0 || cfg.Timeout < 0 || cfg.CheckpointInterval < 0 || cfg.Retention.negative() {
		return nil, errors.New("open audit log: segment bytes, queue, timeout, interval and retention must not be negative")
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = 64 << 20
	}
	if cfg.Queue == 0 {
		cfg.Queue = 4096
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.CheckpointInterval == 0 {
		cfg.CheckpointInterval = 5 * time.Second
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.retain == 0 {
		cfg.retain = retainInterval
	}
	if cfg.sync == nil {
		cfg.sync, cfg.syncData = (*os.File).Sync, syncData
	}
	w, repair, err := openWriter(cfg)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if repair != nil {
		cfg.Logger.Warn("audit log: cut off a torn tail", slog.String("file", repair.File),
			slog.Int64("offset", repair.Offset), slog.Int64("bytes", repair.Bytes), slog.String("saved", repair.Saved))
	}
	if w.unsigned > 0 {
		// So it is after a crash. Whoever could write to the directory since could have
		// changed them.
		cfg.Logger.Warn("audit log: records that no checkpoint covered are signed now", slog.Uint64("records", w.unsigned))
	}
	l := &Log{
		cfg: cfg, repair: repair, w: w, hasher: newLeafHasher(), settled: w.durable.size,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		stats: Stats{Records: w.durable.tree.size, Segments: w.segments},
	}
	w.sealed = cfg.Sealer != nil && !w.empty()
	l.announce()
	l.indexing.Go(func() { l.completeIndexes() })
	l.entries.New = func() any {
		e := &entry{done: make(chan error, 1), timer: time.NewTimer(cfg.Timeout)}
		e.timer.Stop()
		return e
	}
	go l.run()
	return l, nil
}

// KeyChanged tells whether the last checkpoint before Open was signed by another key:
// it was changed, or this is another log.
func (l *Log) KeyChanged() bool { return l.w.foreign } // written by Open only

// Repaired returns what Open cut off, or nil.
func (l *Log) Repaired() *Repair { return l.repair }

// Append writes the record and returns nil when it is as durable as asked for. The
// log gives it its sequence. The record stays the caller's, who may change it as
// soon as Append has returned.
//
// The context's end does not end the wait, because what happened has to be
// recorded even if the caller has gone; Config.Timeout does. An error that
// wraps ErrUnavailable says that the record may not be on disk: whatever it
// speaks of must not be answered. After a timeout it may still get there. Any
// other error means that the record can never be written, being larger than
// MaxRecord.
func (l *Log) Append(_ context.Context, r *auditv1.Record, durability Durability) error {
	if durability == Async {
		if err := l.Err(); err != nil {
			return err
		}
		return l.Enqueue(r)
	}
	e, err := l.encode(r)
	if err != nil {
		return err
	}
	e.durability, e.waits = durability, true
	if err := l.put(e); err != nil {
		l.release(e)
		return err
	}
	e.timer.Reset(l.cfg.Timeout)
	select {
	case err := <-e.done:
		e.timer.Stop()
		if durability == Required || err != nil {
			l.release(e)
		}
		return err
	case <-e.timer.C:
		return unavailable(fmt.Errorf("no commit within %v", l.cfg.Timeout))
	}
}

// Enqueue hands the record over to be written in turn and does not wait; it
// never touches the disk. Nil promises that the record is kept until it is on
// disk, through failures of the log, as long as the process lives. With
// Config.Queue records waiting, and after Close, the error wraps ErrUnavailable.
// The record stays the caller's.
func (l *Log) Enqueue(r *auditv1.Record) error {
	e, err := l.encode(r)
	if err != nil {
		return err
	}
	e.durability, e.queued = Async, true
	if err := l.put(e); err != nil {
		l.release(e)
		return err
	}
	return nil
}

func (l *Log) put(e *entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case e.waits:
		if err := l.err(); err != nil {
			return err
		}
	case l.closed:
		return unavailable(errClosed)
	case l.enqueued >= l.cfg.Queue:
		return unavailable(fmt.Errorf("%d records are waiting", l.enqueued))
	default:
		l.enqueued++
	}
	l.queue = append(l.queue, e)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// Err is nil while the log works, and else wraps ErrUnavailable: after an error
// of the disk until the log has recovered, while a commit takes longer than
// Config.Timeout, and after Close. A segment or directory that was removed or
// replaced shows within half a second. Err does not wait.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err()
}

// err is Err with mu held.
func (l *Log) err() error {
	switch {
	case l.closed:
		return unavailable(errClosed)
	case l.failure != nil:
		return unavailable(l.failure)
	case !l.busy.IsZero() && time.Since(l.busy) > l.cfg.Timeout:
		return unavailable(fmt.Errorf("the disk has not answered for %v", l.cfg.Timeout))
	}
	return nil
}

func unavailable(cause error) error { return fmt.Errorf("%w: %w", ErrUnavailable, cause) }

// Stats returns a snapshot.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Queue = len(l.queue)
	return s
}

// Close refuses further records, commits those that wait and unlocks the
// directory. It returns an error if some could not be committed or signed, or are
// no longer where the log has its place. It waits for
// Config.Timeout at most; a disk that hangs for longer keeps the directory
// locked until the process ends. A second Close waits and returns nil.
func (l *Log) Close() error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if first {
		close(l.quit)
	}
	timer := time.NewTimer(l.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
		return unavailable(fmt.Errorf("close: the disk has not answered for %v", l.cfg.Timeout))
	}
	if !first {
		return nil
	}
	return l.closeErr
}
