package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/policy"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check, test and compare policies, and ask them why",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyCheck(), newPolicyExplain(), newPolicyTest(), newPolicyDiff())
	return cmd
}

// loadPolicy reads and compiles a policy. A bad one is an error of usage, and so
// is a file that cannot be read.
func loadPolicy(path string) (*configv1.Policy, *policy.Index, error) {
	data, err := policy.ReadFile(path)
	if err != nil {
		return nil, nil, usage(err)
	}
	return parsePolicy(data, path)
}

func parsePolicy(data []byte, path string) (*configv1.Policy, *policy.Index, error) {
	p, err := policy.Parse(data, path)
	if err != nil {
		return nil, nil, usage(err)
	}
	index, err := policy.Compile(p)
	if err != nil {
		return nil, nil, usage(fmt.Errorf("%s: %w", path, err))
	}
	return p, index, nil
}

// count is a number with its noun: "1 role", "2 roles".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// actions are the names of the actions of a policy.
func actions() []string {
	var names []string
	for _, number := range slices.Sorted(maps.Keys(configv1.Action_name)) {
		if number != int32(configv1.Action_ACTION_UNSPECIFIED) {
			names = append(names, configv1.Action_name[number])
		}
	}
	return names
}
