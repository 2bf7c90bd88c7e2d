package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/ratios"
	"github.com/sallyport/sallyport/bench/target"
)

func newRun() *cobra.Command {
	var flags siteFlags
	var gates string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Compare with a server without gates, and with ONNX Runtime alone",
		Long: `Compare with a server without gates, and with ONNX Runtime alone.

Writes RESULTS.md and its plots. Run it on a machine that does nothing else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			set, err := settings(&flags, ratios.Full, ratios.Short, ratios.Moment)
			if err != nil {
				return err
			}
			inProcess := ""
			if gates != "" {
				if inProcess, err = readGates(gates); err != nil {
					return err
				}
			}
			return flags.at(cmd, 1, func(site *target.Site) error {
				machine, err := flags.machine(cmd, site)
				if err != nil {
					return err
				}
				results, err := ratios.Run(cmd.Context(), site, set, flags.library, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				return results.Write(flags.out, machine, inProcess)
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&gates, "gates", "", "file with what BenchmarkGates printed, to be put into the results")
	return cmd
}

func readGates(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // the flag names it
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	return ratios.InProcess(f)
}
