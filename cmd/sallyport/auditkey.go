package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func newAuditKey() *cobra.Command {
	var name, output string
	cmd := &cobra.Command{
		Use:   "key --name NAME --output FILE",
		Short: "Make the key that signs the audit log's checkpoints",
		Long: `Make the key that signs the audit log's checkpoints (Ed25519). The private half is
written to FILE, with mode 0600, for audit.signing_key in sallyport.yaml. The public
half is printed: keep it where the server cannot write; it verifies the log.

NAME names the log in its checkpoints and its key, for example
models.example.org/sallyport. With --output of a key that is there its public half is
printed, and nothing is written.`,
		Example: "  sallyport audit key --name models.example.org/sallyport --output audit-signing.key > audit.pub",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == "" {
				return usage(errors.New("--output: the file for the private half must be given"))
			}
			public, err := signingKey(name, output)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), public)
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the log")
	cmd.Flags().StringVar(&output, "output", "", "file for the private half")
	return cmd
}

// signingKey is the public half of the key in a file, which is made if it is not
// there.
func signingKey(name, file string) (public string, err error) {
	old, err := os.ReadFile(file) //nolint:gosec // the operator's own file
	if err == nil {
		key, err := audit.ParseSigningKey(string(old))
		if err != nil {
			return "", fmt.Errorf("%s is there and is %w", file, err)
		}
		if have := key.Public(); name != "" && !strings.HasPrefix(have, name+"+") {
			return "", usage(fmt.Errorf("%s is there already, with the key %s, whose name is another than %q", file, have, name))
		}
		return key.Public(), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	private, public, err := audit.GenerateKey(name)
	if err != nil {
		return "", usage(fmt.Errorf("--name: %w", err))
	}
	return public, writeNew(file, strings.NewReader(private+"\n"))
}
