// Command sallyport is the server, a development SPIFFE authority and the
// command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes, the same for every command.
const (
	exitFailed = 1
	exitUsage  = 2
	exitDenied = 3
	// Of batch.
	exitRefusedRows = 4
	exitUnfinished  = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends whatever does not stop at the first
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "sallyport: %v\n", err)
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.code
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "Zero-trust inference server",
		Long: `Sallyport serves machine-learning models over gRPC to workloads that prove who
they are. Every call is identified, authorized, metered, validated, answered
and recorded.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 denied; of batch
also 4 done but for rows without an answer, 5 stopped before the end and may go on.`,
		Args:          args(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(
		newServe(), newDev(), newDemo(),
		newPredict(), newBatch(), newModels(),
		newPolicy(), newQuota(), newAudit(), newIdentity(),
		newVersion(),
	)
	return root
}

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage marks an error as one of how the command was called or configured.
func usage(err error) error { return &exitError{exitUsage, err} }

// denied marks an error as a refusal by the server.
func denied(err error) error { return &exitError{exitDenied, err} }

// args wraps a cobra check of positional arguments so that it exits as usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usage(fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath()))
		}
		return nil
	}
}
