package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/svidfiles"
)

// writeFlags are the flags of identity write.
type writeFlags struct {
	socket  string
	dir     string
	timeout time.Duration
	once    bool
	hook    hook
}

func newIdentityWrite() *cobra.Command {
	var flags writeFlags
	var level string
	cmd := &cobra.Command{
		Use:   "write --dir DIR [flags] [-- ARG...]",
		Short: "Keep SVID, key and bundles as files, for programs without a SPIFFE library",
		Long: `Keep the X.509-SVID that the SPIFFE Workload API issues as files, and replace
them when it sends a new one:
  DIR/svid.pem         the SVID and its intermediates
  DIR/key.pem          its key (PKCS #8, mode 0600)
  DIR/bundle.pem       the bundle of its own trust domain
  DIR/bundle.NAME.pem  the bundle of each federated trust domain

All are links through one, DIR/.current, which is replaced by a rename: files
that are opened through what it pointed at belong together.

After each replacement, the first included, --exec runs a program, without a
shell, with the arguments after "--"; or --signal is sent to the process in
--pid-file. If that does not succeed it is logged and the next replacement tries
again; with --once it is the command's own failure.

Runs until it is asked to stop. If the Workload API issues nothing within
--timeout at the start the exit code is 1; if it goes away later the files stay
and the log says for how long they are good.`,
		Example: `  sallyport identity write --socket /run/spire/agent.sock --dir /run/certs --exec nginx -- -s reload
  sallyport identity write --dir ./certs --exec sh -- -c 'systemctl reload envoy && echo done'
  sallyport identity write --dir ./certs --signal HUP --pid-file /run/haproxy.pid
  sallyport identity write --dir ./certs --once`,
		Args: args(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, argv []string) error {
			log, err := newLogger(cmd.ErrOrStderr(), level)
			if err != nil {
				return usage(err)
			}
			flags.hook.args = argv
			if err := flags.check(cmd.ArgsLenAtDash()); err != nil {
				return usage(err)
			}
			return writeIdentity(cmd.Context(), flags, log, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.socket, "socket", "", "socket of the SPIFFE Workload API, a path or unix:///path (default $"+workloadapi.SocketEnv+")")
	f.StringVar(&flags.dir, "dir", "", "directory of the files; made if it is not there, its parent must be")
	f.DurationVar(&flags.timeout, "timeout", 30*time.Second, "longest wait for the first SVID")
	f.BoolVar(&flags.once, "once", false, "write what is there now and end")
	f.StringVar(&flags.hook.program, "exec", "", "program to run after each replacement, with the arguments after --")
	f.DurationVar(&flags.hook.timeout, "exec-timeout", 30*time.Second, "longest that the program may run; then it is ended")
	choiceVar(cmd, &flags.hook.signal, "signal", "signal to send after each replacement", signalNames()...)
	f.StringVar(&flags.hook.pidFile, "pid-file", "", "file with the process id that --signal is sent to; read each time")
	logFlag(cmd, &level)
	return cmd
}

// check finds all that is wrong with the flags. Dash is how many arguments came
// before "--"; -1 if there is none.
func (f *writeFlags) check(dash int) error {
	var errs []error
	if f.dir == "" {
		errs = append(errs, errors.New("where? give --dir DIR"))
	}
	if f.socket == "" && os.Getenv(workloadapi.SocketEnv) == "" {
		errs = append(errs, fmt.Errorf("as whom? give --socket PATH of a SPIFFE Workload API or set %s", workloadapi.SocketEnv))
	}
	if f.timeout <= 0 {
		errs = append(errs, fmt.Errorf("--timeout %v: must be more than 0", f.timeout))
	}
	if len(f.hook.args) > 0 && dash != 0 {
		errs = append(errs, fmt.Errorf("%q: arguments of the program of --exec come after --", f.hook.args[0]))
	}
	return errors.Join(append(errs, f.hook.check())...)
}

func writeIdentity(ctx context.Context, flags writeFlags, log *slog.Logger, output io.Writer) (err error) {
	dir, err := svidfiles.Open(flags.dir)
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	source, err := identity.Open(ctx, identity.Config{
		WorkloadAPI:  cmp.Or(flags.socket, os.Getenv(workloadapi.SocketEnv)),
		StartTimeout: flags.timeout,
		Log:          log,
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop
		}
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	cfg := svidfiles.Config{Log: log}
	if flags.hook.wanted() {
		cfg.Replaced = func(ctx context.Context) error { return flags.hook.run(ctx, output) }
	}
	if flags.once {
		return svidfiles.Once(ctx, dir, source, cfg)
	}
	return svidfiles.Keep(ctx, dir, source, cfg)
}
