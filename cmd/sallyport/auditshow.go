package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/spf13/cobra"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// showFlags are the flags of audit show.
type showFlags struct {
	filterFlags

	dir          string
	last         int
	follow, json bool
}

func newAuditShow() *cobra.Command {
	var flags showFlags
	cmd := &cobra.Command{
		Use:   "show [DIR]",
		Short: "Show the records of the audit log",
		Long: `Show the records of the audit log, the oldest first. Filters that are given all
have to match. The server may write to the log meanwhile; --follow waits for more
until interrupted.

Records of the log's own (key, retention) say nothing of callers and
are shown only if --kind names them, or is all.

Every record is checked against its own hash and sequence. If one does not fit, showing
ends there with exit code 1. Whether it is what was signed, 'audit verify' tells.

--since and --until take a time as in RFC 3339 or how long ago, such as 90m. With
--json each record is one line, in Protobuf's JSON form of
sallyport.audit.v1.Record; it has more than the table.`,
		Example: `  sallyport audit show ./dev/audit -n 20
  sallyport audit show ./dev/audit --caller 'spiffe://sallyport.test/clinic/*' --code PERMISSION_DENIED,UNAUTHENTICATED --since 1h
  sallyport audit show ./dev/audit --user alice --user-issuer https://idp.example --role triage-reader
  sallyport audit show ./dev/audit --peer 10.1.0.0/16 --reason QUOTA_ROWS --model 'fraud-*'
  sallyport audit show ./dev/audit --user alice --pseudonym-key-file pseudonym.key
  sallyport audit show ./dev/audit --call 01JABCDEF --json
  sallyport audit show ./dev/audit --kind handshake --follow
  sallyport audit show ./dev/audit --kind key,retention`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			dir, err := auditDir(cmd, a, flags.dir)
			if err != nil {
				return err
			}
			err = flags.resolve(time.Now())
			if flags.last < 0 {
				err = errors.Join(err, fmt.Errorf("--last %d: must not be negative", flags.last))
			}
			if err != nil {
				return usage(err)
			}
			log, err := flags.keys.view(cmd.Context(), dir)
			if err != nil {
				return err
			}
			return showAudit(cmd.Context(), cmd.OutOrStdout(), log, &flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.dir, "dir", defaultAuditDir, "directory of the log")
	flags.define(cmd)
	f.IntVarP(&flags.last, "last", "n", 0, "only the last so many of the records that match (default all)")
	f.BoolVar(&flags.follow, "follow", false, "wait for more records")
	f.BoolVar(&flags.json, "json", false, "print each record as one line of JSON")
	return cmd
}

func showAudit(ctx context.Context, w io.Writer, log audit.View, flags *showFlags) error {
	records := log.Records(ctx, 0)
	if id := flags.filter.CallID; id != "" && !flags.follow {
		r, err := findCall(ctx, log, id)
		if err != nil {
			return whereLog(err, "--dir")
		}
		flags.filter.CallID = r.GetCallId() // in its own case
		// One record has a call id, so that it need not be looked for again.
		records = func(yield func(*auditv1.Record, error) bool) { yield(r, nil) }
	}
	write := writeRecord
	if flags.json {
		write = func(w io.Writer, r *auditv1.Record) error { return writeMessage(w, r) }
	} else if err := writeRecordHeader(w); err != nil {
		return err
	}
	buffered := bufio.NewWriter(w)
	next, err := showRecords(buffered, records, flags, write)
	err = errors.Join(err, buffered.Flush())
	if err != nil || !flags.follow {
		return whereLog(err, "--dir")
	}
	following := *flags
	following.last = 0
	_, err = showRecords(w, log.Follow(ctx, next), &following, write)
	if ctx.Err() != nil {
		return nil // interrupted, which is how following ends
	}
	return err
}

// showRecords writes the records that match, only the last of them if the flags
// say so, and returns the sequence after the last one read.
func showRecords(w io.Writer, records iter.Seq2[*auditv1.Record, error], flags *showFlags, write func(io.Writer, *auditv1.Record) error) (next uint64, err error) {
	filter := flags.filter
	if filter.Kinds == nil {
		filter.Kinds = notOwn
	}
	var held []*auditv1.Record // a ring of the last ones
	matched := 0
	next = 1
	for r, failed := range records {
		if failed != nil {
			err = failed
			break
		}
		next = r.GetSequence() + 1
		if !filter.Match(r) {
			continue
		}
		switch {
		case flags.last == 0:
			if err := write(w, r); err != nil {
				return next, err
			}
		case len(held) < flags.last:
			held = append(held, r)
		default:
			held[matched%flags.last] = r
		}
		matched++
	}
	for i := range held {
		if err := write(w, held[(matched+i)%len(held)]); err != nil {
			return next, err
		}
	}
	return next, err
}
