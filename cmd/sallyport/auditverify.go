package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// trust is what a verifier brings: keys, and checkpoints kept elsewhere.
type trust struct {
	publicKeys  []string // each a key, or a file of keys
	checkpoints []string // each a file, or a directory of a witness
}

func (t *trust) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&t.publicKeys, "public-key", nil, "key that may have signed checkpoints, name+hash+key, or a file of such; may be repeated")
	f.StringArrayVar(&t.checkpoints, "checkpoint", nil, "checkpoint kept elsewhere: a file, or a directory that a witness writes to; may be repeated")
}

// keys are the public keys that were given.
func (t *trust) keys() ([]string, error) {
	var keys []string
	for _, k := range t.publicKeys {
		if !strings.Contains(k, "+") {
			data, err := os.ReadFile(k) //nolint:gosec // the operator's own file
			if err != nil {
				return nil, usage(fmt.Errorf("--public-key: %w", err))
			}
			keys = append(keys, strings.Fields(string(data))...)
			continue
		}
		keys = append(keys, k)
	}
	if _, err := audit.ParseVerifiers(keys...); err != nil {
		return nil, usage(fmt.Errorf("--public-key: %w", err))
	}
	return keys, nil
}

func (t *trust) notes() ([][]byte, error) {
	var notes [][]byte
	for _, c := range t.checkpoints {
		found, err := audit.Witnessed(c)
		if err != nil {
			return nil, usage(fmt.Errorf("--checkpoint: %w", err))
		}
		notes = append(notes, found...)
	}
	return notes, nil
}

func newAuditVerify() *cobra.Command {
	var dir string
	var given trust
	cmd := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Check that no record was changed, removed or added",
		Long: `Check that no record was changed, removed or added: every record is hashed again,
and the Merkle tree over them is compared with every signed checkpoint. The first
place that does not fit is named, with exit code 1. The server may write to the log
meanwhile.

Give --public-key, which 'sallyport audit key' printed when the key was made: without
it the keys count that the log's own directory lists, which whoever replaces the log
replaces too. Give --checkpoint with what a witness keeps: the log must hold all that
those checkpoints cover, so that neither records cut off at its end nor a log that
was written anew with the same key go unseen.`,
		Example: `  sallyport audit verify ./dev/audit
  sallyport audit verify /var/lib/sallyport/audit --public-key audit.pub --checkpoint /mnt/witness`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			dir, err := auditDir(cmd, a, dir)
			if err != nil {
				return err
			}
			return verifyAudit(cmd.OutOrStdout(), dir, given)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultAuditDir, "directory of the log")
	given.register(cmd)
	return cmd
}

func verifyAudit(w io.Writer, dir string, given trust) error {
	keys, err := given.keys()
	if err != nil {
		return err
	}
	notes, err := given.notes()
	if err != nil {
		return err
	}
	report, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: keys, Checkpoints: notes})
	if tampered := (*audit.TamperError)(nil); errors.As(err, &tampered) {
		return fmt.Errorf("the audit log does NOT verify beyond %s: %w", count64(report.Records, "record"), tampered)
	}
	if err != nil {
		return whereLog(err, "--dir")
	}
	_, err = io.WriteString(w, describeReport(&report, len(given.checkpoints) > 0))
	return err
}

// describeReport says what a log that verifies is, and what that is worth.
func describeReport(r *audit.Report, held bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "the audit log verifies: %s in %s, %d bytes\n",
		count64(r.Records-r.Removed, "record"), count(r.Segments, "segment"), r.Bytes)
	if r.Removed > 0 {
		fmt.Fprintf(&b, "begins with record %d: those before it were deleted by retention\n", r.Removed+1)
	}
	if r.Records > r.Removed {
		fmt.Fprintf(&b, "from        %s\nto          %s\n", r.First.UTC().Format(time.RFC3339Nano), r.Last.UTC().Format(time.RFC3339Nano))
	}
	fmt.Fprintf(&b, "checkpoints %d of the log's own", r.Checkpoints)
	if held {
		fmt.Fprintf(&b, ", %d kept elsewhere", r.Given)
	}
	fmt.Fprintf(&b, "; the last is of %s, root %x\n", count64(r.Checkpoint.Size, "record"), r.Checkpoint.Root)
	fmt.Fprintf(&b, "signed by   %s\n", strings.Join(r.Keys, ", "))
	if n := r.Uncovered(); n > 0 {
		fmt.Fprintf(&b, "note: the last %s %s not covered by a checkpoint yet\n", count64(n, "record"), map[bool]string{true: "is", false: "are"}[n == 1])
	}
	if r.TornTail > 0 {
		fmt.Fprintf(&b, "note: %d bytes after the last record are of a commit that is not finished\n", r.TornTail)
	}
	if r.KeysFromLog {
		b.WriteString("note: the key is the one that the log's directory names; give --public-key to hold it against yours\n")
	}
	if !held {
		b.WriteString("note: no checkpoint from elsewhere was given; without one, a log cut off at one of its own checkpoints, or written anew by who has the key, looks the same\n")
	}
	return b.String()
}
