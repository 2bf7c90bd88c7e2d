package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// exportLines writes the records that match as JSON lines.
func exportLines(ctx context.Context, stdout io.Writer, log audit.View, flags *exportFlags) error {
	if flags.output != "-" {
		return replaceFile(flags.output, func(w io.Writer) error {
			_, err := writeLines(ctx, w, log.Records(ctx, 0), flags)
			return whereLog(err, "--dir")
		})
	}
	buffered := bufio.NewWriter(stdout)
	next, err := writeLines(ctx, buffered, log.Records(ctx, 0), flags)
	err = errors.Join(err, buffered.Flush())
	if err != nil || !flags.follow {
		return whereLog(err, "--dir")
	}
	_, err = writeLines(ctx, stdout, log.Follow(ctx, next), flags)
	if ctx.Err() != nil {
		return nil // interrupted, which is how following ends
	}
	return err
}

// writeLines returns the sequence after the last record read.
func writeLines(ctx context.Context, w io.Writer, records iter.Seq2[*auditv1.Record, error], flags *exportFlags) (next uint64, err error) {
	next = 1
	for r, err := range records {
		if err != nil {
			return next, err
		}
		if ctx.Err() != nil {
			return next, ctx.Err()
		}
		next = r.GetSequence() + 1
		if !flags.filter.Match(r) {
			continue
		}
		if err := writeMessage(w, r); err != nil {
			return next, err
		}
	}
	return next, nil
}

// replaceFile makes a file of what write writes, readable by its owner, once that has
// ended well: until then, a file of that name stays what it was.
func replaceFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	buffered := bufio.NewWriterSize(f, 1<<20)
	if err = errors.Join(write(buffered), buffered.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
