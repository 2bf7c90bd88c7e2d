package main

import (
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/overload"
	"github.com/sallyport/sallyport/bench/target"
)

func newOverload() *cobra.Command {
	const callers = 4
	var flags siteFlags
	set := overload.Full
	cmd := &cobra.Command{
		Use:   "overload",
		Short: "Bring a server several times the calls that it can answer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if flags.short {
				set = overload.Short
			}
			return flags.at(cmd, callers, func(site *target.Site) error {
				machine, err := flags.machine(cmd, site)
				if err != nil {
					return err
				}
				if err := site.AddRecurrent(); err != nil {
					return err
				}
				results, err := overload.Run(cmd.Context(), site, callers, set, cmd.ErrOrStderr())
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
	cmd.Flags().Float64Var(&set.Factor, "factor", set.Factor, "times the capacity")
	return cmd
}
