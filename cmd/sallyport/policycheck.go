package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/policy"
)

func newPolicyCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Tell whether a policy is good, and sum it up",
		Long: `Tell whether the server would take a policy, and sum it up. Faults are named
with their line or place in the file; the exit code is then 2. Each role has a line for each of its
rules and bindings, with the condition and the users that they ask for.`,
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
	if _, err := fmt.Fprintf(w, "%s is good: %s, %s, %s\n", path,
		count(len(p.GetRoles()), "role"), count(len(p.GetBindings()), "binding"), count(len(p.GetBlocked()), "block")); err != nil {
		return err
	}
	callers := make(map[string][]string) // by role, a line a binding
	for _, b := range p.GetBindings() {
		line := strings.Join(b.GetCallers(), ", ")
		if b.GetUser() != nil {
			line += " " + policy.Terms(b.GetUser(), "")
		}
		callers[b.GetRole()] = append(callers[b.GetRole()], line)
	}
	var table strings.Builder
	tw := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ROLE\tALLOWS\tCALLERS") //nolint:errcheck // Flush returns it
	for _, r := range p.GetRoles() {
		name, bound := r.GetName(), callers[r.GetName()]
		if len(bound) == 0 {
			bound = []string{"nobody"}
		}
		for i := range max(len(r.GetRules()), len(bound)) {
			allows, callers := "", ""
			if i < len(r.GetRules()) {
				allows = ruleText(r.GetRules()[i])
			}
			if i < len(bound) {
				callers = bound[i]
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\n", name, printable(allows), printable(callers)) //nolint:errcheck // Flush returns it
			name = ""
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(table.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	if err := noteBudgets(w, p); err != nil {
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

// noteBudgets says which roles have budgets, and what they take.
func noteBudgets(w io.Writer, p *configv1.Policy) error {
	ix, err := policy.Compile(p)
	if err != nil {
		return err
	}
	for _, name := range ix.Budgeted() {
		if _, err := fmt.Fprintf(w, "budget of %s: %s\n", printable(name), strings.Join(ix.RoleLimits(name).Budgets(), "; ")); err != nil {
			return err
		}
	}
	if err := noteStoreFailure(w, p, len(ix.Budgeted()) > 0); err != nil {
		return err
	}
	if len(ix.Budgeted()) > 0 {
		_, err = fmt.Fprintln(w, "note: budgets need a store: a server without quota.redis in its configuration refuses this policy")
	}
	return err
}

// noteStoreFailure says which roles are served while the store of quotas does not
// answer, if a role says so or has a budget.
func noteStoreFailure(w io.Writer, p *configv1.Policy, budgets bool) error {
	var local []string
	for _, r := range p.GetRoles() {
		if r.GetLimits().GetOnStoreFailure() == configv1.OnStoreFailure_LOCAL {
			local = append(local, printable(r.GetName()))
		}
	}
	if len(local) == 0 && !budgets {
		return nil
	}
	text := "REFUSE for all roles"
	if len(local) > 0 {
		text = "LOCAL for " + strings.Join(local, ", ")
	}
	if len(local) > 0 && len(local) < len(p.GetRoles()) {
		text += "; REFUSE for the others"
	}
	_, err := fmt.Fprintln(w, "on_store_failure:", text)
	return err
}

// ruleText is what a rule allows, and when.
func ruleText(rule *configv1.Rule) string {
	var actions []string
	for _, a := range rule.GetActions() {
		actions = append(actions, a.String())
	}
	text := strings.Join(actions, ",")
	if len(rule.GetModels()) > 0 {
		text += " on " + strings.Join(rule.GetModels(), ",")
	}
	if rule.GetWhen() != "" {
		text += " " + policy.Terms(nil, rule.GetWhen())
	}
	return text
}
