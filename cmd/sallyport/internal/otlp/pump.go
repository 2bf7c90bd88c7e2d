package otlp

import (
	"context"
	"iter"
	"log/slog"
	"time"

	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// What a batch holds at most; collectors take 4 MiB by default.
const (
	maxBatchRecords = 512
	maxBatchBytes   = 1 << 20
)

// linger is how long a record waits for others to be sent with.
const linger = 500 * time.Millisecond

// Pump sends the records of a log in their order, each at least once.
type Pump struct {
	Sender *Sender
	// Match selects what is sent. What it does not is dealt with all the same.
	Match func(*auditv1.Record) bool
	// Dealt is called behind every batch that the collector acknowledged, before
	// the next one, with how far the log is dealt with. An error ends the run.
	Dealt func(Cursor) error
}

// Summary is what became of the records.
type Summary struct {
	// Sent were acknowledged, Rejected among them by a collector that took the rest.
	Sent, Rejected uint64
	// Skipped did not match.
	Skipped uint64
	// Missing are records that the log does not have any more.
	Missing uint64
}

// Run sends the records from the given sequence on that records yields, until it
// ends, ctx ends, or the first error. Records is called once; Run returns when
// its iterator has ended.
func (p *Pump) Run(ctx context.Context, from uint64, records func(context.Context) iter.Seq2[*auditv1.Record, error]) (Summary, error) {
	reading, stop := context.WithCancel(ctx)
	items := make(chan item, maxBatchRecords)
	go func() {
		defer close(items)
		for r, err := range records(reading) {
			select {
			case items <- item{r, err}:
			case <-reading.Done():
				return
			}
		}
	}()
	defer func() {
		stop()
		for range items { // until the reader has ended
		}
	}()
	r := &run{Pump: p, next: from}
	err := r.pump(ctx, items)
	return r.summary, err
}

type item struct {
	record *auditv1.Record
	err    error
}

// run is the state of Run.
type run struct {
	*Pump
	next    uint64 // the sequence that should come
	batch   []*logsv1.LogRecord
	bytes   int
	last    *auditv1.Record // the last one read; nil if Dealt knows of it
	summary Summary
}

func (r *run) pump(ctx context.Context, items <-chan item) error {
	due := time.NewTimer(linger)
	due.Stop()
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-due.C:
			if err := r.flush(ctx); err != nil {
				return err
			}
		case it, ok := <-items:
			if !ok || it.err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				// What was read before it is good, and is sent.
				if err := r.flush(ctx); err != nil {
					return err
				}
				return it.err
			}
			if r.last == nil {
				due.Reset(linger)
			}
			r.take(it.record)
			if len(r.batch) == maxBatchRecords || r.bytes >= maxBatchBytes {
				due.Stop()
				if err := r.flush(ctx); err != nil {
					return err
				}
			}
		}
	}
}

// take puts a record into the batch if it matches.
func (r *run) take(record *auditv1.Record) {
	if n := record.GetSequence(); n > r.next {
		r.summary.Missing += n - r.next
		r.Sender.cfg.Log.Error("audit log: records were removed before they were exported",
			slog.Uint64("from", r.next), slog.Uint64("through", n-1))
	}
	r.next, r.last = record.GetSequence()+1, record
	if !r.Match(record) {
		r.summary.Skipped++
		return
	}
	converted := convert(record, r.Sender.cfg.Body(record))
	r.batch = append(r.batch, converted)
	r.bytes += proto.Size(converted)
}

// flush sends the batch and tells how far the log is dealt with.
func (r *run) flush(ctx context.Context) error {
	if r.last == nil {
		return nil
	}
	if len(r.batch) > 0 {
		rejected, err := r.Sender.Send(ctx, r.batch)
		if err != nil {
			return err
		}
		r.summary.Sent += uint64(len(r.batch))
		r.summary.Rejected += uint64(rejected) //nolint:gosec // not negative
		r.batch, r.bytes = nil, 0
	}
	cursor := cursorAt(r.last)
	r.last = nil
	return r.Dealt(cursor)
}
