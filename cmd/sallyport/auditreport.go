package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/report"
)

// defaultPeriod is what is reported on unless --since says otherwise.
const defaultPeriod = "24h"

// reportFlags are the flags of audit report.
type reportFlags struct {
	dir, since, until string
	keys              keyFlags
	top               int
	json              bool
}

func newAuditReport() *cobra.Command {
	var flags reportFlags
	cmd := &cobra.Command{
		Use:   "report [DIR]",
		Short: "Report who called what, what was refused, and what is unusual",
		Long: `Report on a period of the audit log: who called what, refusals by reason, refused
handshakes, unusual callers, and what happened to the server. The log is read once,
from its beginning: what lies before the period is what a caller is compared with.
Records count by when they began.

--since and --until take a time as in RFC 3339 or how long ago, such as 90m. With
--since "" the period is all of the log, and nothing is compared. A line of what is
unusual says by which rule it is there, its numbers, and the command that shows
the records behind it. The rules:

` + rulesText(80) + `
"Denied" are calls that ended with PERMISSION_DENIED or UNAUTHENTICATED, "refused"
those with any code but OK. Where earlier periods are said, those as long as the
period and before it are meant, at most 30, and whole ones since the caller was
first seen. It takes --since 24h and a log of six days to be told of a change.

--json prints one object with the same, whole; docs/audit.md has its fields.`,
		Example: `  sallyport audit report ./dev/audit
  sallyport audit report ./dev/audit --since 168h --top 50
  sallyport audit report ./dev/audit --since 2030-01-01T00:00:00Z --until 2030-02-01T00:00:00Z --json`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			dir, err := auditDir(cmd, a, flags.dir)
			if err != nil {
				return err
			}
			log, err := flags.keys.view(cmd.Context(), dir)
			if err != nil {
				return err
			}
			return reportAudit(cmd.Context(), cmd.OutOrStdout(), log, flags, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.dir, "dir", defaultAuditDir, "directory of the log")
	f.StringVar(&flags.since, "since", defaultPeriod, "beginning of the period, or how long ago")
	f.StringVar(&flags.until, "until", "", "end of the period, or how long ago (default now)")
	flags.keys.register(cmd)
	f.IntVar(&flags.top, "top", 20, "lines of each table and rule; 0 for all")
	f.BoolVar(&flags.json, "json", false, "print one object of JSON, whole")
	return cmd
}

func reportAudit(ctx context.Context, w io.Writer, log audit.View, flags reportFlags, now time.Time) error {
	since, errSince := parseTime(flags.since, now)
	until, errUntil := parseTime(flags.until, now)
	if errSince != nil {
		errSince = fmt.Errorf("--since %w", errSince)
	}
	if errUntil != nil {
		errUntil = fmt.Errorf("--until %w", errUntil)
	}
	if err := errors.Join(errSince, errUntil); err != nil {
		return usage(err)
	}
	if flags.top < 0 {
		return usage(fmt.Errorf("--top %d: must not be negative", flags.top))
	}
	if until.IsZero() {
		until = now
	}
	counter, err := report.New(report.Config{Since: since, Until: until})
	if err != nil {
		return usage(err)
	}
	for r, err := range log.Records(ctx, 0) {
		if err != nil {
			return whereLog(err, "--dir")
		}
		counter.Add(r)
	}
	out := bufio.NewWriter(w)
	if flags.json {
		err = json.NewEncoder(out).Encode(counter.Report())
	} else {
		t := &reportText{w: out, dir: log.Dir, top: flags.top}
		t.write(counter.Report())
	}
	return errors.Join(err, out.Flush())
}

// rulesText are the rules of what is unusual, wrapped.
func rulesText(width int) string {
	var b strings.Builder
	for _, rule := range report.Rules {
		fmt.Fprintf(&b, "  %-10s %s\n", rule.Name, strings.Join(wrap(rule.Text, width-13), "\n             "))
	}
	return b.String()
}

// wrap breaks text between words into lines of at most width.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
