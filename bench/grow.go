package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/grow"
	"github.com/sallyport/sallyport/bench/target"
)

func newGrow() *cobra.Command {
	var flags siteFlags
	cmd := &cobra.Command{
		Use:   "grow",
		Short: "Measure how cost grows with rows, streams, callers, models and rules",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			set, err := settings(&flags, grow.Full, grow.Short, grow.Moment)
			if err != nil {
				return err
			}
			return flags.at(cmd, 1, func(site *target.Site) error {
				machine, err := flags.machine(cmd, site)
				if err != nil {
					return err
				}
				all, err := grow.Run(cmd.Context(), site, set, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				if err := grow.Write(flags.out, machine, all); err != nil {
					return err
				}
				var errs []error
				for _, s := range all {
					errs = append(errs, s.Err())
				}
				return flags.judged(cmd, errors.Join(errs...))
			})
		},
	}
	flags.add(cmd)
	return cmd
}
