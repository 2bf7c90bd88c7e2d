package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/otlp"
	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// exportOTLP sends the records that match to a collector.
func exportOTLP(ctx context.Context, stderr io.Writer, log audit.View, flags *exportFlags) (err error) {
	logger, err := newLogger(stderr, "info")
	if err != nil {
		return err
	}
	cfg := otlp.Config{
		URL: flags.otlp, Protocol: flags.protocol, TLS: flags.tls,
		Body: recordSentence, Version: version, Host: flags.host, Log: logger,
	}
	if !flags.follow {
		cfg.GiveUp = flags.retryFor
	}
	if cfg.Host == "" {
		if cfg.Host, err = os.Hostname(); err != nil {
			return fmt.Errorf("%w; give --host", err)
		}
	}
	for _, s := range flags.headers {
		h, err := otlp.ParseHeaderFile(s)
		if err != nil {
			return usage(fmt.Errorf("--header-file %w", err))
		}
		cfg.Headers = append(cfg.Headers, h)
	}
	sender, err := otlp.NewSender(cfg)
	if err != nil {
		return usage(fmt.Errorf("--otlp: %w", err))
	}
	defer func() { err = errors.Join(err, sender.Close()) }()

	from, dealt, err := openCursor(ctx, flags.cursor, log)
	if err != nil {
		return err
	}
	pump := &otlp.Pump{Sender: sender, Match: flags.filter.Match, Dealt: dealt}
	summary, err := pump.Run(ctx, from, func(ctx context.Context) iter.Seq2[*auditv1.Record, error] {
		if flags.follow {
			return located(log.Follow(ctx, from))
		}
		return located(log.Records(ctx, from))
	})
	if flags.follow && ctx.Err() != nil {
		err = nil // interrupted, which is how following ends
	}
	_, writeErr := fmt.Fprintf(stderr, "exported %s, %d rejected; %d did not match, %d were missing\n",
		count64(summary.Sent, "record"), summary.Rejected, summary.Skipped, summary.Missing)
	err = errors.Join(err, writeErr)
	if err == nil && summary.Rejected+summary.Missing > 0 {
		err = errors.New("not all records are with the collector")
	}
	return err
}

// openCursor is where to go on, and what to call with how far it went. Without a
// file that is the beginning, and nothing.
func openCursor(ctx context.Context, file string, log audit.View) (from uint64, dealt func(otlp.Cursor) error, err error) {
	if file == "" {
		return 1, func(otlp.Cursor) error { return nil }, nil
	}
	cursor, err := otlp.LoadCursor(file)
	if err != nil {
		return 0, nil, fmt.Errorf("--cursor: %w", err)
	}
	if from, err = cursor.Resume(func(from uint64) iter.Seq2[*auditv1.Record, error] { return located(log.Records(ctx, from)) }); err != nil {
		return 0, nil, fmt.Errorf("--cursor %s: %w", file, err)
	}
	return from, func(c otlp.Cursor) error {
		if err := c.Save(file); err != nil {
			return fmt.Errorf("--cursor: %w", err)
		}
		return nil
	}, nil
}

// located adds to errors that there is no log what to give.
func located(records iter.Seq2[*auditv1.Record, error]) iter.Seq2[*auditv1.Record, error] {
	return func(yield func(*auditv1.Record, error) bool) {
		for r, err := range records {
			if !yield(r, whereLog(err, "--dir")) {
				return
			}
		}
	}
}
