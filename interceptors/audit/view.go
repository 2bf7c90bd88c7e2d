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

// View reads a log, from any process.
type View struct {
	// Dir is the log's directory.
	Dir string
	// Keys open sealed records. Nil: they come as they are stored.
	Keys *Unsealer
}

// Records yields the records from the given sequence on (0 and 1: all that
// retention has left), each checked against its hash. It ends at the end of the
// log; if it meets something else than a whole record it yields an error, a
// *TamperError if the log does not fit together, and ends. A yielded record is the
// caller's. What a signature would tell, Verify tells.
//
// The log may be written to meanwhile, by another process too: then the last
// records may not be durable yet, and a commit that fails is taken back, after
// which a reader that saw its records yields a *TamperError.
func (v View) Records(ctx context.Context, from uint64) iter.Seq2[*auditv1.Record, error] {
	return func(yield func(*auditv1.Record, error) bool) {
		r, err := openReader(v.Dir, from)
		if err != nil {
			yield(nil, fmt.Errorf("read audit log: %w", err))
			return
		}
		defer r.close()
		v.read(ctx, r, from, yield)
	}
}

// Follow is Records that waits for more at the end of the log, until ctx ends.
func (v View) Follow(ctx context.Context, from uint64) iter.Seq2[*auditv1.Record, error] {
	return func(yield func(*auditv1.Record, error) bool) {
		r, err := openReader(v.Dir, from)
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
		for v.read(ctx, r, from, until) {
			select {
			case <-ctx.Done():
				return
			case <-poll.C:
			}
		}
	}
}

// read yields what there is; it returns false if there will be no more.
func (v View) read(ctx context.Context, r *reader, from uint64, yield func(*auditv1.Record, error) bool) bool {
	for {
		raw, err := r.next()
		if errors.Is(err, io.EOF) {
			return true
		}
		var record *auditv1.Record
		// The first of a segment may be the key of what follows.
		if err == nil && (r.seq >= from || r.seq == r.first) {
			if record, err = r.decode(raw); err == nil {
				record, err = v.open(ctx, record)
			}
		}
		if err != nil {
			yield(nil, fmt.Errorf("read audit log: %w", err))
			return false
		}
		if r.seq >= from && !yield(record, nil) {
			return false
		}
	}
}

// open opens a sealed record if there are keys.
func (v View) open(ctx context.Context, record *auditv1.Record) (*auditv1.Record, error) {
	switch {
	case v.Keys == nil:
	case record.GetWrappedKey() != nil:
		if err := v.Keys.Learn(ctx, record.GetWrappedKey()); err != nil {
			return nil, fmt.Errorf("record %d: %w", record.GetSequence(), err)
		}
	case len(record.GetSealed()) > 0:
		opened, err := v.Keys.Open(record)
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", record.GetSequence(), err)
		}
		return opened, nil
	}
	return record, nil
}

// decode decodes the record that next returned last.
func (r *reader) decode(raw []byte) (*auditv1.Record, error) {
	record := new(auditv1.Record)
	if err := proto.Unmarshal(raw, record); err != nil || record.GetSequence() != r.seq {
		return nil, r.undecodable()
	}
	return record, nil
}

func (r *reader) undecodable() error {
	size := int64(prefixSize + len(r.frame))
	return &TamperError{File: r.path, Offset: r.off - size, Sequence: r.seq, Reason: "record does not decode to one with this sequence"}
}
