package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/policy"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check a policy, and ask it why",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyCheck(), newPolicyExplain())
	return cmd
}

// loadPolicy reads and compiles a policy. A bad one is an error of usage, and so
// is a file that cannot be read.
func loadPolicy(path string) (*configv1.Policy, *policy.Index, error) {
	data, err := policy.ReadFile(path)
	if err != nil {
		return nil, nil, usage(err)
	}
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

// count is a number with its noun: "1 role", "2 roles".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// explainFlags are the flags of policy explain.
type explainFlags struct {
	policy, caller, action, model, address string
	json                                   bool
}

func newPolicyExplain() *cobra.Command {
	var flags explainFlags
	cmd := &cobra.Command{
		Use:   "explain --caller SPIFFE-ID --action ACTION --model MODEL",
		Short: "Tell why a caller may do something, or not",
		Long: `Tell why a caller may do something, or not: which blocks, bindings and rules
match, what the caller's limits are, and what comes nearest if nothing allows it.
The server is not asked; the file decides.

The exit code is 0 if it is allowed and 3 if it is not.`,
		Example: `  sallyport policy explain --policy policy.yaml --caller spiffe://sallyport.test/intern --action PREDICT --model digits
  sallyport policy explain --caller spiffe://sallyport.test/ops --action INTROSPECT --address 10.1.2.3 --json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runExplain(cmd.OutOrStdout(), flags)
		},
	}
	cmd.Flags().StringVar(&flags.policy, "policy", "policy.yaml", "file with the policy")
	cmd.Flags().StringVar(&flags.caller, "caller", "", "SPIFFE ID of the caller")
	cmd.Flags().StringVar(&flags.action, "action", "", "what the caller wants to do: "+strings.Join(actions(), ", "))
	completeWords(cmd, "action", actions()...)
	cmd.Flags().StringVar(&flags.model, "model", "", "name of the model; not for INTROSPECT")
	cmd.Flags().StringVar(&flags.address, "address", "", "IP address that the call comes from; if not given, blocked addresses are left aside")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON")
	return cmd
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

func (f *explainFlags) request() (policy.Request, error) {
	var r policy.Request
	var errs []error
	var err error
	if r.Caller, err = spiffeid.FromString(f.caller); err != nil {
		errs = append(errs, fmt.Errorf("--caller %q: %w", f.caller, err))
	}
	if r.Action, err = policy.ParseAction(f.action); err != nil || r.Action == policy.None {
		errs = append(errs, fmt.Errorf("--action %q: must be one of %s", f.action, strings.Join(actions(), ", ")))
	} else if r.Model = f.model; r.Model == "" && r.Action != policy.Introspect {
		errs = append(errs, fmt.Errorf("--model: %s is about a model", r.Action))
	}
	if f.address != "" {
		if r.Address, err = netip.ParseAddr(f.address); err != nil {
			errs = append(errs, fmt.Errorf("--address %q: not an IP address", f.address))
		}
	}
	return r, errors.Join(errs...)
}

func runExplain(w io.Writer, flags explainFlags) error {
	r, err := flags.request()
	if err != nil {
		return usage(err)
	}
	_, index, err := loadPolicy(flags.policy)
	if err != nil {
		return err
	}
	e := index.Explain(r)
	if flags.json {
		err = json.NewEncoder(w).Encode(e)
	} else {
		_, err = fmt.Fprintln(w, e)
	}
	if err == nil && !e.Allowed {
		return denied(fmt.Errorf("refused: %s", e.Outcome))
	}
	return err
}
