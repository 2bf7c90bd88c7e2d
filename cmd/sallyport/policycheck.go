package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

func newPolicyCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Tell whether a policy is good, and sum it up",
		Long: `Tell whether the server would take a policy, and sum it up. Faults are named
with their line or place in the file; the exit code is then 2.`,
		Example: `  sallyport policy check policy.yaml`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			p, _, err := loadPolicy(a[0])
			if err != nil {
				return err
			}
			return sumUp(cmd.OutOrStdout(), a[0], p)
		},
	}
}

func sumUp(w io.Writer, path string, p *configv1.Policy) error {
	callers := make(map[string][]string) // by role
	for _, b := range p.GetBindings() {
		callers[b.GetRole()] = append(callers[b.GetRole()], b.GetCallers()...)
	}
	if _, err := fmt.Fprintf(w, "%s is good: %s, %s, %s\n", path,
		count(len(p.GetRoles()), "role"), count(len(p.GetBindings()), "binding"), count(len(p.GetBlocked()), "block")); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ROLE\tALLOWS\tCALLERS") //nolint:errcheck // Flush returns it
	for _, r := range p.GetRoles() {
		var allows []string
		for _, rule := range r.GetRules() {
			var actions []string
			for _, a := range rule.GetActions() {
				actions = append(actions, a.String())
			}
			text := strings.Join(actions, ",")
			if len(rule.GetModels()) > 0 {
				text += " on " + strings.Join(rule.GetModels(), ",")
			}
			allows = append(allows, text)
		}
		bound := strings.Join(callers[r.GetName()], ", ")
		if bound == "" {
			bound = "nobody"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", r.GetName(), printable(strings.Join(allows, "; ")), printable(bound)) //nolint:errcheck // Flush returns it
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, b := range p.GetBlocked() {
		who := strings.Join(slices.Concat(b.GetCallers(), b.GetAddresses()), ", ")
		if _, err := fmt.Fprintf(w, "blocked: %s (%s)\n", printable(who), printable(b.GetReason())); err != nil {
			return err
		}
	}
	return nil
}
