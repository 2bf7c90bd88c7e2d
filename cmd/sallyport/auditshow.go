package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// showFlags are the flags of audit show.
type showFlags struct {
	dir, kind, code, since, until string
	filter                        audit.Filter
	pseudonym                     pseudonymFlags
	last                          int
	follow, json                  bool
}

var kinds = map[string]auditv1.Kind{
	"call":      auditv1.Kind_KIND_CALL,
	"handshake": auditv1.Kind_KIND_HANDSHAKE,
	"event":     auditv1.Kind_KIND_EVENT,
}

func newAuditShow() *cobra.Command {
	var flags showFlags
	cmd := &cobra.Command{
		Use:   "show [DIR]",
		Short: "Show the records of the audit log",
		Long: `Show the records of the audit log, the oldest first. Filters that are given all
have to match. The server may write to the log meanwhile; --follow waits for more
until interrupted.

Every record is checked against the one before it. If one does not fit, showing
ends there with exit code 1.

--since and --until take a time as in RFC 3339 or how long ago, such as 90m. With
--json each record is one line, in Protobuf's JSON form of
sallyport.audit.v1.Record; it has more than the table.`,
		Example: `  sallyport audit show ./dev/audit -n 20
  sallyport audit show ./dev/audit --caller 'spiffe://sallyport.test/clinic/*' --code PERMISSION_DENIED --since 1h
  sallyport audit show ./dev/audit --user alice --pseudonym-key-file pseudonym.key
  sallyport audit show ./dev/audit --call 01JABCDEF --json
  sallyport audit show ./dev/audit --kind handshake --follow`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			dir, err := auditDir(cmd, a, flags.dir)
			if err != nil {
				return err
			}
			if err := flags.resolve(time.Now()); err != nil {
				return usage(err)
			}
			if flags.filter.User, err = flags.pseudonym.onRecord(flags.filter.User); err != nil {
				return err
			}
			return showAudit(cmd.Context(), cmd.OutOrStdout(), dir, &flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.dir, "dir", defaultAuditDir, "directory of the log")
	f.StringVar(&flags.filter.Caller, "caller", "", "SPIFFE ID of the caller, also as claimed in a refused handshake; with /* at its end, all below it")
	f.StringVar(&flags.filter.User, "user", "", "subject of the user on whose behalf the call was made")
	flags.pseudonym.register(cmd)
	f.StringVar(&flags.filter.Model, "model", "", "name of the model; with * at its end, a prefix")
	f.StringVar(&flags.filter.Action, "action", "", "action, such as PREDICT")
	completeWords(cmd, "action", actions()...)
	f.StringVar(&flags.code, "code", "", "status code, such as PERMISSION_DENIED or 7; OK for calls that were answered")
	completeWords(cmd, "code", codeNames()...)
	f.StringVar(&flags.filter.Reason, "reason", "", "reason of the refusal, such as POLICY_DENIED")
	completeWords(cmd, "reason", recordReasons...)
	f.StringVar(&flags.filter.CallID, "call", "", "id of the call")
	choiceVar(cmd, &flags.kind, "kind", "what the record is about", slices.Sorted(maps.Keys(kinds))...)
	f.StringVar(&flags.since, "since", "", "earliest time, or how long ago")
	f.StringVar(&flags.until, "until", "", "time before which it must be, or how long ago")
	f.IntVarP(&flags.last, "last", "n", 0, "only the last so many of the records that match (default all)")
	f.BoolVar(&flags.follow, "follow", false, "wait for more records")
	f.BoolVar(&flags.json, "json", false, "print each record as one line of JSON")
	return cmd
}

// resolve makes the filter from the flags that are not the filter's own.
func (f *showFlags) resolve(now time.Time) error {
	var errs []error
	if f.code != "" {
		c, err := parseCode(f.code)
		errs = append(errs, err)
		f.filter.Code = &c
	}
	if c := f.filter.Caller; c != "" && !strings.Contains(c, "://") {
		f.filter.Caller = "spiffe://" + c // as the table writes it
	}
	f.filter.Action = strings.ToUpper(f.filter.Action)
	if f.filter.Action != "" && !slices.Contains(actions(), f.filter.Action) {
		errs = append(errs, fmt.Errorf("--action %q: must be one of %s", f.filter.Action, strings.Join(actions(), ", ")))
	}
	f.filter.Reason = strings.ToUpper(f.filter.Reason)
	if f.filter.Reason != "" && !slices.Contains(recordReasons, f.filter.Reason) {
		errs = append(errs, fmt.Errorf("--reason %q: must be one of %s", f.filter.Reason, strings.Join(recordReasons, ", ")))
	}
	f.filter.Kind = kinds[f.kind]
	if f.last < 0 {
		errs = append(errs, fmt.Errorf("--last %d: must not be negative", f.last))
	}
	var err error
	if f.filter.Since, err = parseTime(f.since, now); err != nil {
		errs = append(errs, fmt.Errorf("--since %w", err))
	}
	if f.filter.Until, err = parseTime(f.until, now); err != nil {
		errs = append(errs, fmt.Errorf("--until %w", err))
	}
	return errors.Join(errs...)
}

func codeNames() []string {
	var names []string
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		names = append(names, codeName(c))
	}
	return names
}

func parseCode(s string) (uint32, error) {
	if n, ok := code.Code_value[strings.ToUpper(s)]; ok {
		return uint32(n), nil //nolint:gosec // codes are 0 to 16
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > uint64(codes.Unauthenticated) {
		return 0, fmt.Errorf("--code %q: must be one of %s, or its number", s, strings.Join(codeNames(), ", "))
	}
	return uint32(n), nil
}

// parseTime is a time as in RFC 3339, or as how long before now; zero if s is
// empty.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(s); err == nil {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q: must be a time such as %s, or how long ago, such as 90m", s, now.UTC().Format(time.RFC3339))
	}
	return at, nil
}

func showAudit(ctx context.Context, w io.Writer, dir string, flags *showFlags) error {
	if id := flags.filter.CallID; id != "" && !flags.follow {
		r, err := findCall(ctx, audit.View{Dir: dir}, id)
		if err != nil {
			return whereLog(err, "--dir")
		}
		flags.filter.CallID = r.GetCallId() // in its own case
	}
	write := writeRecord
	if flags.json {
		write = func(w io.Writer, r *auditv1.Record) error { return writeMessage(w, r) }
	} else if err := writeRecordHeader(w); err != nil {
		return err
	}
	next, err := showRecords(w, audit.View{Dir: dir}.Records(ctx, 0), flags, write)
	if err != nil || !flags.follow {
		return whereLog(err, "--dir")
	}
	following := *flags
	following.last = 0
	_, err = showRecords(w, audit.View{Dir: dir}.Follow(ctx, next), &following, write)
	if ctx.Err() != nil {
		return nil // interrupted, which is how following ends
	}
	return err
}

// showRecords writes the records that match, only the last of them if the flags
// say so, and returns the sequence after the last one read.
func showRecords(w io.Writer, records iter.Seq2[*auditv1.Record, error], flags *showFlags, write func(io.Writer, *auditv1.Record) error) (next uint64, err error) {
	var held []*auditv1.Record // a ring of the last ones
	matched := 0
	next = 1
	for r, failed := range records {
		if failed != nil {
			err = failed
			break
		}
		next = r.GetSequence() + 1
		if !flags.filter.Match(r) {
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

// recordLine has columns of fixed width, so that following needs no look ahead.
const recordLine = "%-24s  %-30s  %-14s  %-16s  %5s  %-18s  %9s  %s\n"

func writeRecordHeader(w io.Writer) error {
	_, err := fmt.Fprintf(w, recordLine, "TIME", "CALLER", "ACTION", "MODEL", "ROWS", "RESULT", "DURATION", "CALL OR DETAIL")
	return err
}

func writeRecord(w io.Writer, r *auditv1.Record) error {
	caller := cmp.Or(strings.TrimPrefix(r.GetCaller().GetSpiffeId(), "spiffe://"), r.GetPeerAddress(), "-")
	if user := r.GetUser(); user != nil {
		caller += " for " + user.GetSubject()
	}
	model := cmp.Or(r.GetModel(), "-")
	if r.GetModelVersion() > 0 {
		model += "/" + strconv.FormatInt(r.GetModelVersion(), 10)
	}
	result := cmp.Or(r.GetReason(), codeName(codes.Code(r.GetCode()))) // a reason has one code
	duration := "-"
	if r.GetDuration() != nil {
		duration = r.GetDuration().AsDuration().Round(time.Microsecond).String()
	}
	action, rows, last := cmp.Or(r.GetAction(), r.GetMethod(), "-"), strconv.FormatUint(r.GetRowsReceived(), 10), r.GetCallId()
	switch r.GetKind() {
	case auditv1.Kind_KIND_HANDSHAKE:
		action, rows, last = "(handshake)", "-", r.GetDetail()
	case auditv1.Kind_KIND_EVENT:
		action, rows, result, last = "(event)", "-", cmp.Or(r.GetReason(), "-"), r.GetDetail()
	case auditv1.Kind_KIND_CALL, auditv1.Kind_KIND_UNSPECIFIED:
	}
	_, err := fmt.Fprintf(w, recordLine, r.GetTime().AsTime().UTC().Format("2006-01-02T15:04:05.000Z"),
		printable(caller), printable(action), printable(model), rows, printable(result), duration, printable(last))
	return err
}
