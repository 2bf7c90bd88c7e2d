package main

import "github.com/spf13/cobra"

func newIdentity() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Use the identity that the SPIFFE Workload API issues",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newIdentityWrite(), newIdentityToken())
	return cmd
}
