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
			set := grow.Full
			if flags.short {
				set = grow.Short
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
				errs := []error{grow.Write(flags.out, machine, all)}
				for _, s := range all {
					if flags.short {
						break // too few and too short to tell
					}
					errs = append(errs, s.Err())
				}
				return errors.Join(errs...)
			})
		},
	}
	flags.add(cmd)
	return cmd
}
