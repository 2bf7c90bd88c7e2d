package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// demoLimit bounds the whole demonstration.
const demoLimit = 2 * time.Minute

func newDemo() *cobra.Command {
	var keep string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a server at work, a refusal at every gate included",
		Long: `Start a development server in a directory of its own and show what it does:
a prediction, a stream of batches, callers that are refused each for a reason of
their own, one of a federated domain, one that is blocked while its stream is open,
and the audit trail of it all, which is then tampered with.

Ends by itself, with exit code 0 only if everything went as it should.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoLimit)
			defer cancel()
			return runDemo(ctx, cmd.OutOrStdout(), keep)
		},
	}
	cmd.Flags().StringVar(&keep, "keep", "", "directory to work in and leave behind; must not exist (default a temporary one, removed)")
	return cmd
}

// demo is a running demonstration.
type demo struct {
	out     io.Writer
	dir     string
	address string
}

// scene is one thing that is shown. It fails if the server does not do what
// it should, refusals included.
type scene struct {
	title string
	play  func(*demo, context.Context) error
}

var scenes = []scene{
	{"A prediction for the clinic", (*demo).predict},
	{"The whole held-out split as a stream, for the ward's nightly batch", (*demo).stream},
	{"A caller without an SVID", (*demo).stranger},
	{"An outsider, with an SVID of another trust domain", (*demo).outsider},
	{"The intern, who is known but has no role", (*demo).intern},
	{"An invalid request", (*demo).invalid},
	{"A request over quota", (*demo).overQuota},
	{"A workload of a federated trust domain", (*demo).partner},
	{"A stream that idles while its caller is blocked", (*demo).blockedWhileOpen},
	{"The audit trail", (*demo).trail},
	{"Proof of one call, for somebody who has the public key and not the log", (*demo).prove},
	{"The same log with one byte changed, in a copy", (*demo).tamper},
}

func runDemo(ctx context.Context, out io.Writer, keep string) (err error) {
	dir := keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "sallyport-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else if err := os.Mkdir(dir, 0o700); err != nil {
		return usage(err)
	}
	d := &demo{out: out, dir: dir}

	logPath := filepath.Join(dir, "server.log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // a directory of our own
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- runDev(serving, devFlags{dir: dir, listen: "127.0.0.1:0", admin: "127.0.0.1:0", ttl: defaultTTL},
			slog.New(slog.NewTextHandler(logFile, nil)), &serverSignals{}, func(address string) { ready <- address })
	}()
	select {
	case d.address = <-ready:
	case err := <-ended:
		return fmt.Errorf("the server did not start: %w", err)
	}
	d.printf("Sallyport serves at %s; everything it keeps is under %s\n", d.address, dir)

	failed := 0
	for i, s := range scenes {
		d.printf("\n%d. %s\n", i+1, s.title)
		if err := s.play(d, ctx); err != nil {
			failed++
			d.printf("   NOT AS IT SHOULD BE: %v\n", err)
		}
	}
	stop()
	if err := <-ended; err != nil {
		return fmt.Errorf("the server: %w", err)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d scenes did not go as they should", failed, len(scenes))
	}
	d.printf("\nAll %d scenes went as they should.\n", len(scenes))
	if keep == "" {
		d.printf("%s is removed now; with --keep DIR it stays.\n", dir)
	}
	return nil
}

func (d *demo) printf(format string, a ...any) { _, _ = fmt.Fprintf(d.out, format, a...) }

// sent and got show the two sides of a call.
func (d *demo) sent(format string, a ...any) { d.printf("   -> %s\n", fmt.Sprintf(format, a...)) }
func (d *demo) got(format string, a ...any)  { d.printf("   <- %s\n", fmt.Sprintf(format, a...)) }

// as connects as one of the workloads.
func (d *demo) as(ctx context.Context, workload string) (*client, error) {
	return dial(ctx, clientFlags{
		server:  []string{d.address},
		socket:  filepath.Join(d.dir, "workloads", workload+".sock"),
		timeout: demoLimit,
	})
}
