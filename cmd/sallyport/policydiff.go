package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/interceptors/policy"
)

func newPolicyDiff() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Tell what another policy would allow and refuse",
		Long: `Tell which callers gain or lose access to which models, from one policy to
another, and which blocked addresses and limits differ. What the policies mean is
compared, not how they are written; conditions are compared as they are written.

  +  gained     ~  under other conditions or limits
  -  lost       =  stays, within something that does not

A line holds for the callers and models of its pattern, save where a line of a
narrower pattern says otherwise: first that of the callers, then that of the model.

The exit code is 0 if nothing differs, 1 if something does, and 2 if a file is bad.`,
		Example: `  sallyport policy diff policy.yaml next.yaml`,
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return diffPolicies(cmd.OutOrStdout(), a[0], a[1], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func diffPolicies(w io.Writer, before, after string, asJSON bool) error {
	_, a, errA := loadPolicy(before)
	_, b, errB := loadPolicy(after)
	if errA != nil || errB != nil {
		return usage(errors.Join(errA, errB))
	}
	d := policy.Compare(a, b)
	var err error
	switch {
	case asJSON:
		err = json.NewEncoder(w).Encode(d)
	case d.Empty():
		_, err = fmt.Fprintf(w, "%s and %s decide the same\n", before, after)
	default:
		err = d.WriteText(w)
	}
	if err == nil && !d.Empty() {
		return errors.New("the policies differ")
	}
	return err
}
