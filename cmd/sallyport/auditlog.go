package main

import (
	"context"
	"iter"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// auditLog is a log to read: the one place where commands open it.
type auditLog struct{ dir string }

// records yields the records from the given sequence on, as audit.Records does.
func (l auditLog) records(from uint64) iter.Seq2[*auditv1.Record, error] {
	return audit.Records(l.dir, from)
}

// follow is records that waits for more until ctx ends.
func (l auditLog) follow(ctx context.Context, from uint64) iter.Seq2[*auditv1.Record, error] {
	return audit.Follow(ctx, l.dir, from)
}
