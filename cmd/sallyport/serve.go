package main

import (
	"runtime"

	"github.com/spf13/cobra"
)

func newServe() *cobra.Command {
	var path, level string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve models",
		Long: `Serve models as a configuration file says (see docs/configuration.md).

The server's own identity comes from the SPIFFE Workload API. The policy is
read again when its file changes, models are loaded, replaced and removed as
their directory changes; SIGHUP looks at both at once. SIGTERM and SIGINT drain
and stop; a second one cuts off what is still open.`,
		Example: "  sallyport serve --config /etc/sallyport/sallyport.yaml",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(cmd.ErrOrStderr(), level)
			if err != nil {
				return usage(err)
			}
			cfg, err := loadConfig(path)
			if err != nil {
				return usage(err)
			}
			heard := notifyServerSignals()
			defer heard.release()
			floor := keepHeap()
			defer runtime.KeepAlive(floor)
			ctx := cmd.Context()
			p, err := assemble(ctx, cfg, log)
			if err != nil {
				return err
			}
			return p.run(ctx, heard)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "sallyport.yaml", "configuration file")
	logFlag(cmd, &level)
	return cmd
}

// logFlag adds the flag that newLogger reads.
func logFlag(cmd *cobra.Command, level *string) {
	cmd.Flags().StringVar(level, "log-level", "info", "least level that is logged: debug, info, warn, error")
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(
		[]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
}
