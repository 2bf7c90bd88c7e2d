package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/soak"
	"github.com/sallyport/sallyport/bench/target"
)

func newSoak() *cobra.Command {
	const callers = 4
	var flags siteFlags
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Work a server for long and see whether what it takes grows",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			set, err := settings(&flags, soak.Full, soak.Short, soak.Moment)
			if err != nil {
				return err
			}
			if duration > 0 {
				set.Duration = duration
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
				return flags.judged(cmd, results.Err())
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().DurationVar(&duration, "for", 0, "how long; unless given, what the length says")
	return cmd
}
