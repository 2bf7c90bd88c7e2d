package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/bare"
	"github.com/sallyport/sallyport/bench/target"
)

// newBare is the server without gates, as a process of its own.
func newBare() *cobra.Command {
	cfg := bare.Config{TrustDomain: target.TrustDomain}
	cmd := &cobra.Command{
		Use:    "bare",
		Short:  "Serve models over mTLS without any gate",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.WorkloadAPI = "unix:" + cfg.WorkloadAPI
			return bare.Serve(cmd.Context(), cfg, func(address string) {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "ready %s\n", address)
			})
		},
	}
	cmd.Flags().StringVar(&cfg.WorkloadAPI, "socket", "", "unix socket of the Workload API")
	cmd.Flags().StringVar(&cfg.Models, "models", "", "model repository")
	cmd.Flags().StringVar(&cfg.Library, "library", "", "ONNX Runtime's library")
	return cmd
}
