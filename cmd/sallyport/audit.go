package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"
)

// defaultAuditDir is where a server with the configuration of dev keeps its log,
// seen from its directory.
const defaultAuditDir = "audit"

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read, verify and prove the audit log",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditShow(), newAuditReport(), newAuditExport(), newAuditVerify(), newAuditProve(), newAuditCheckProof(), newAuditKey())
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
