package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/overload"
	"github.com/sallyport/sallyport/bench/target"
)

func newOverload() *cobra.Command {
	const callers = 4
	var flags siteFlags
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "overload",
		Short: "Bring a server several times the calls that it can answer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			set, err := settings(&flags, overload.Full, overload.Short, overload.Moment)
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
				return errors.Join(results.Recorded.Err(), flags.judged(cmd, results.Err()))
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().DurationVar(&duration, "for", 0, "how long; unless given, what the length says")
	return cmd
}
