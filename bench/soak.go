package main

import (
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/soak"
	"github.com/sallyport/sallyport/bench/target"
)

func newSoak() *cobra.Command {
	const callers = 4
	var flags siteFlags
	set := soak.Full
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Work a server for long and see whether what it takes grows",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if flags.short {
				set = soak.Short
			}
			return flags.at(cmd, callers, func(site *target.Site) error {
				machine, err := flags.machine(cmd, site)
				if err != nil {
					return err
				}
				results, err := soak.Run(cmd.Context(), site, set, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				if err := results.Write(flags.out, machine); err != nil {
					return err
				}
				return results.Err()
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().DurationVar(&set.Duration, "for", set.Duration, "how long")
	cmd.Flags().Float64Var(&set.Share, "share", set.Share, "part of the capacity")
	return cmd
}
