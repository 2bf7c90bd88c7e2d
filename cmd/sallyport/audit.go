package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// defaultAuditDir is where a server with the configuration of dev keeps its log,
// seen from its directory.
const defaultAuditDir = "audit"

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read and verify the audit log",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditShow(), newAuditReport(), newAuditExport(), newAuditVerify())
	return cmd
}

// auditDir is the directory that the arguments or the flag name.
func auditDir(cmd *cobra.Command, a []string, flag string) (string, error) {
	switch {
	case len(a) == 0:
		return flag, nil
	case cmd.Flags().Changed("dir"):
		return "", usage(fmt.Errorf("both %s and --dir %s: give the directory once", a[0], flag))
	}
	return a[0], nil
}

func newAuditVerify() *cobra.Command {
	var dir string
	var heads []string
	cmd := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Check that no record was changed, removed or added",
		Long: `Check that no record was changed, removed or added: every record is hashed again
and compared with the chain. The first place that does not fit is named, with exit
code 1. The server may write to the log meanwhile.

The head printed is the hash over all of the log. Kept elsewhere, it proves later,
given as --head, that the log still holds all that it held then. Without a head,
records cut off at the very end, or a log written anew as a whole, cannot be seen.`,
		Example: `  sallyport audit verify ./dev/audit
  sallyport audit verify ./dev/audit --head 6b1f...`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			dir, err := auditDir(cmd, a, dir)
			if err != nil {
				return err
			}
			return verifyAudit(cmd.OutOrStdout(), dir, heads)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultAuditDir, "directory of the log")
	cmd.Flags().StringSliceVar(&heads, "head", nil, "head of an earlier verification, which the log must hold; may be repeated")
	return cmd
}

func verifyAudit(w io.Writer, dir string, heads []string) error {
	for _, head := range heads {
		if b, err := hex.DecodeString(head); err != nil || len(b) != sha256.Size {
			return usage(fmt.Errorf("--head %q: must be the 64 hexadecimal digits that verify printed", head))
		}
	}
	report, err := audit.Verify(dir, heads...)
	if tampered := (*audit.TamperError)(nil); errors.As(err, &tampered) {
		return fmt.Errorf("the audit log does NOT verify beyond %s: %w", count64(report.Records, "record"), tampered)
	}
	if err != nil {
		return whereLog(err, "--dir")
	}
	if _, err := fmt.Fprintf(w, "the audit log verifies: %s in %s, %d bytes\n",
		count64(report.Records, "record"), count(report.Segments, "segment"), report.Bytes); err != nil {
		return err
	}
	if report.Records > 0 {
		if _, err := fmt.Fprintf(w, "from  %s\nto    %s\n", report.First.UTC().Format(time.RFC3339Nano), report.Last.UTC().Format(time.RFC3339Nano)); err != nil {
			return err
		}
	}
	if report.TornTail > 0 {
		if _, err := fmt.Fprintf(w, "note: %d bytes after the last record are of a commit that is not finished\n", report.TornTail); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, "head  %s\n", report.Head)
	return err
}

// whereLog adds to the error of a log that is not in dir what to give.
func whereLog(err error, flag string) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w\n  give the log's directory with %s: audit.directory in sallyport.yaml, ./dev/audit with 'sallyport dev'", err, flag)
}

// count64 is count for a sequence.
func count64(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
