package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/otlp"
)

// jsonl is the format of a record a line.
const jsonl = "jsonl"

// exportFlags are the flags of audit export.
type exportFlags struct {
	filterFlags

	dir            string
	format, output string
	otlp, protocol string
	headers        []string
	tls            otlp.TLSFiles
	host           string
	cursor         string
	retryFor       time.Duration
	follow         bool
}

func newAuditExport() *cobra.Command {
	var flags exportFlags
	cmd := &cobra.Command{
		Use:   "export [DIR]",
		Short: "Export the audit log as JSON lines, or to an OpenTelemetry collector",
		Long: `Export the records of the audit log, the log's own too, the oldest first. Filters
are those of audit show, and those that are given all have to match.

As JSON lines, each record is one line in Protobuf's JSON form of
sallyport.audit.v1.Record. A file is replaced when all is written, so there is
never half of one.

With --otlp, records go to a collector as OpenTelemetry logs, in batches. A batch
that the collector does not acknowledge is sent again, with growing pauses or those
the collector asks for: for as long as --retry-for says, or with --follow for ever.
What it refuses for good ends the export; what it rejects out of a batch that it
took is counted, said and not sent again, as OTLP demands. The exit code is 1 then.

--cursor names a file that remembers the last record dealt with, written when the
collector has acknowledged it: the next export goes on behind it. So every record
arrives at least once, and after a crash some of one batch twice, with the same
sallyport.sequence. A cursor is of one log and one collector.

https is required but for a collector on this machine. Secrets are not given on the
command line: --header-file NAME=FILE sends what FILE holds, which only its owner
may read, and reads it again for every batch.`,
		Example: `  sallyport audit export ./dev/audit --output audit.jsonl --since 24h
  sallyport audit export ./dev/audit --kind call --code PERMISSION_DENIED | jq .caller.spiffeId
  sallyport audit export ./dev/audit --otlp https://collector.example:4318 --cursor audit.cursor \
    --header-file authorization=/run/secrets/collector --follow
  sallyport audit export ./dev/audit --otlp http://127.0.0.1:4317 --otlp-protocol grpc`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			dir, err := auditDir(cmd, a, flags.dir)
			if err != nil {
				return err
			}
			if err := errors.Join(flags.resolve(time.Now()), flags.check(cmd)); err != nil {
				return usage(err)
			}
			log, err := flags.keys.view(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if flags.otlp == "" {
				return exportLines(cmd.Context(), cmd.OutOrStdout(), log, &flags)
			}
			return exportOTLP(cmd.Context(), cmd.ErrOrStderr(), log, &flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.dir, "dir", defaultAuditDir, "directory of the log")
	flags.format, flags.protocol = jsonl, otlp.HTTP
	choiceVar(cmd, &flags.format, "format", "format of --output", jsonl)
	f.StringVarP(&flags.output, "output", "o", "-", "file to write, or - for standard output")
	f.StringVar(&flags.otlp, "otlp", "", "URL of a collector to send to instead")
	choiceVar(cmd, &flags.protocol, "otlp-protocol", "how to speak to the collector", otlp.GRPC, otlp.HTTP)
	f.StringArrayVar(&flags.headers, "header-file", nil, "NAME=FILE: header for the collector, with what FILE holds; may be repeated")
	f.StringVar(&flags.tls.CA, "tls-ca", "", "file of the certificates that the collector's must chain to (default the system's)")
	f.StringVar(&flags.tls.Cert, "tls-cert", "", "file of a client certificate")
	f.StringVar(&flags.tls.Key, "tls-key", "", "file of its key")
	f.StringVar(&flags.host, "host", "", "host.name to export under (default this machine's)")
	f.StringVar(&flags.cursor, "cursor", "", "file that remembers how far the log is exported")
	f.DurationVar(&flags.retryFor, "retry-for", 5*time.Minute, "how long a batch is tried again without --follow")
	f.BoolVar(&flags.follow, "follow", false, "wait for more records, until interrupted")
	flags.define(cmd)
	return cmd
}

// check says which flags do not go together.
func (f *exportFlags) check(cmd *cobra.Command) error {
	var errs []error
	changed := cmd.Flags().Changed
	if f.otlp == "" {
		for _, name := range []string{"otlp-protocol", "header-file", "tls-ca", "tls-cert", "tls-key", "host", "cursor", "retry-for"} {
			if changed(name) {
				errs = append(errs, fmt.Errorf("--%s is of --otlp, which is not given", name))
			}
		}
		if f.follow && f.output != "-" {
			errs = append(errs, errors.New("--follow never ends, and --output is written at the end: write to standard output"))
		}
	} else {
		for _, name := range []string{"format", "output"} {
			if changed(name) {
				errs = append(errs, fmt.Errorf("--%s and --otlp: choose one", name))
			}
		}
	}
	if f.follow && changed("retry-for") {
		errs = append(errs, errors.New("--retry-for and --follow: following tries for ever"))
	}
	if f.retryFor <= 0 {
		errs = append(errs, fmt.Errorf("--retry-for %s: must be positive", f.retryFor))
	}
	return errors.Join(errs...)
}
