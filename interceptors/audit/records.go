package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// pollInterval is how often Follow looks for new records.
const pollInterval = 200 * time.Millisecond

// Records yields the records in dir from the given sequence on (0 and 1: all),
// each checked against the one before it. It ends at the end of the log; if it
// meets something else than a whole record it yields an error, a *TamperError
// if the log does not fit together, and ends. A yielded record is the caller's.
//
// The log may be written to meanwhile, by another process too: then the last
// records may not be durable yet, and a commit that fails is taken back, after
// which a reader that saw its records yields a *TamperError.
func Records(dir string, from uint64) iter.Seq2[*auditv1.Record, error] {
	return func(yield func(*auditv1.Record, error) bool) {
		r, err := openReader(dir, from)
		if err != nil {
			yield(nil, fmt.Errorf("read audit log: %w", err))
			return
		}
		defer r.close()
		r.records(from, yield)
	}
}

// Follow is Records that waits for more at the end of the log, until ctx ends.
func Follow(ctx context.Context, dir string, from uint64) iter.Seq2[*auditv1.Record, error] {
	return func(yield func(*auditv1.Record, error) bool) {
		r, err := openReader(dir, from)
		if err != nil {
			yield(nil, fmt.Errorf("read audit log: %w", err))
			return
		}
		defer r.close()
		poll := time.NewTicker(pollInterval)
		defer poll.Stop()
		until := func(record *auditv1.Record, err error) bool {
			return ctx.Err() == nil && yield(record, err)
		}
		for r.records(from, until) {
			select {
			case <-ctx.Done():
				return
			case <-poll.C:
			}
		}
	}
}

// records yields what there is; it returns false if there will be no more.
func (r *reader) records(from uint64, yield func(*auditv1.Record, error) bool) bool {
	for {
		raw, err := r.next()
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			yield(nil, fmt.Errorf("read audit log: %w", err))
			return false
		}
		if r.seq < from {
			continue
		}
		record, err := r.decode(raw)
		if err != nil {
			yield(nil, fmt.Errorf("read audit log: %w", err))
			return false
		}
		if !yield(record, nil) {
			return false
		}
	}
}

// decode decodes the record that next returned last.
func (r *reader) decode(raw []byte) (*auditv1.Record, error) {
	record := new(auditv1.Record)
	if err := proto.Unmarshal(raw, record); err != nil || record.GetSequence() != r.seq {
		size := int64(prefixSize + len(r.frame))
		return nil, &TamperError{File: r.path, Offset: r.off - size, Sequence: r.seq, Reason: "record does not decode to one with this sequence"}
	}
	return record, nil
}
