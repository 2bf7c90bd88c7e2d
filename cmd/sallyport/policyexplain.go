package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// explainFlags are the flags of policy explain.
type explainFlags struct {
	policy, caller, action, model, address string
	user                                   userFlags
	rows                                   int64
	time                                   string
	call, audit                            string
	keys                                   keyFlags
	pseudonym                              pseudonymFlags
	json                                   bool
}

// userFlags are a user's claims.
type userFlags struct {
	issuer, subject, acr string
	groups, scopes, amr  []string
}

func newPolicyExplain() *cobra.Command {
	var flags explainFlags
	cmd := &cobra.Command{
		Use:   "explain (--caller SPIFFE-ID --action ACTION [--model MODEL] | --call ID)",
		Short: "Tell why a caller may do something, or not, or why a call went as it did",
		Long: `Tell why a caller may do something, or not: which blocks, bindings and rules
match, what the caller's limits are, and what comes nearest if nothing allows it.
The server is not asked; the file decides.

With --call, tell from the audit log why a call went as it did. If --policy names
the very file that decided, by its SHA-256, the rules behind it follow; if it
names another, they follow with a warning. The log has the user's issuer and
subject and no other claims: give those with --user-group and so on. Where it has a
pseudonym for the subject, --user-subject with --pseudonym-key-file gives the
subject, which must be the one that the pseudonym stands for.

The exit code is 0 if it is or was allowed and 3 if not.`,
		Example: `  sallyport policy explain --policy policy.yaml --caller spiffe://sallyport.test/intern --action PREDICT --model digits
  sallyport policy explain --caller spiffe://sallyport.test/ops --action INTROSPECT --address 10.1.2.3 --json
  sallyport policy explain --call 01JABCDEF --audit ./dev/audit --policy ./dev/policy.yaml`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("call") {
				return runExplainCall(cmd.Context(), cmd.OutOrStdout(), cmd.Flags(), flags)
			}
			if cmd.Flags().Changed("audit") {
				return usage(errors.New("--audit goes with --call"))
			}
			return runExplain(cmd.OutOrStdout(), cmd.Flags(), flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.policy, "policy", "policy.yaml", "file with the policy; with --call there is no default")
	f.StringVar(&flags.caller, "caller", "", "SPIFFE ID of the caller")
	f.StringVar(&flags.action, "action", "", "what the caller wants to do: "+strings.Join(actions(), ", "))
	completeWords(cmd, "action", actions()...)
	f.StringVar(&flags.model, "model", "", "name of the model; not for INTROSPECT")
	f.StringVar(&flags.address, "address", "", "IP address that the call comes from; if not given, blocked addresses are left aside")
	f.StringVar(&flags.user.issuer, "user-issuer", "", "issuer of the token of the user on whose behalf")
	f.StringVar(&flags.user.subject, "user-subject", "", "subject of that token")
	f.StringArrayVar(&flags.user.groups, "user-group", nil, "group of the user; may be repeated")
	f.StringArrayVar(&flags.user.scopes, "user-scope", nil, "scope of the token; may be repeated")
	f.StringArrayVar(&flags.user.amr, "user-amr", nil, "method by which the user authenticated, such as mfa; may be repeated")
	f.StringVar(&flags.user.acr, "user-acr", "", "class of that authentication")
	f.Int64Var(&flags.rows, "rows", 0, "rows asked for (default 0; with --call, those of the record)")
	f.StringVar(&flags.time, "time", "", "when, as in RFC 3339, or how long ago, such as 90m (default now)")
	f.StringVar(&flags.call, "call", "", "id of a call in the audit log; then who, what and when are taken from there")
	f.StringVar(&flags.audit, "audit", defaultAuditDir, "directory of the audit log, for --call")
	flags.keys.register(cmd)
	flags.pseudonym.register(cmd)
	f.BoolVar(&flags.json, "json", false, "print JSON")
	return cmd
}

// request is what the flags ask; the error joins all faults.
func (f *explainFlags) request(now time.Time) (policy.Request, error) {
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
	if r.User, err = f.user.user(); err != nil {
		errs = append(errs, err)
	}
	r.Time = now
	errs = append(errs, f.circumstances(&r, now))
	return r, errors.Join(errs...)
}

// circumstances sets the rows and the time of r that the flags give.
func (f *explainFlags) circumstances(r *policy.Request, now time.Time) error {
	var errs []error
	if f.rows < 0 {
		errs = append(errs, fmt.Errorf("--rows %d: must not be negative", f.rows))
	}
	if f.rows != 0 {
		r.Rows = f.rows
	}
	at, err := parseTime(f.time, now)
	if err != nil {
		errs = append(errs, fmt.Errorf("--time %w", err))
	}
	if !at.IsZero() {
		r.Time = at
	}
	return errors.Join(errs...)
}

// user is the user that the flags describe; nil if they describe none.
func (f *userFlags) user() (*identity.User, error) {
	u := &identity.User{Issuer: f.issuer, Subject: f.subject, Groups: f.groups, Scopes: f.scopes, AMR: f.amr, ACR: f.acr}
	switch {
	case f.issuer != "" && f.subject != "":
		return u, nil
	case f.issuer+f.subject == "" && !f.claims():
		return nil, nil //nolint:nilnil // the workload calls for itself
	}
	return nil, errors.New("--user-issuer and --user-subject: a user has both")
}

// claims is whether there are claims beside issuer and subject.
func (f *userFlags) claims() bool {
	return len(f.groups)+len(f.scopes)+len(f.amr)+len(f.acr) > 0
}

func runExplain(w io.Writer, given *pflag.FlagSet, flags explainFlags) error {
	r, err := flags.request(time.Now())
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
		text := e.String()
		if !given.Changed("rows") && slices.ContainsFunc(e.Rules, readsRows) {
			text += "\nnote: no --rows given, taken as 0"
		}
		_, err = fmt.Fprintln(w, text)
	}
	if err == nil && !e.Allowed {
		return denied(fmt.Errorf("refused: %s", e.Outcome))
	}
	return err
}

// readsRows is whether the rule has a condition that was evaluated and names rows.
func readsRows(r policy.ConsideredRule) bool {
	return r.Value != "" && strings.Contains(r.When, "rows")
}

// fromRecord are the flags for what --call takes from the record.
var fromRecord = []string{"caller", "action", "model", "address", "user-issuer", "user-subject"}

// besideCall finds flags that do not go with --call.
func besideCall(given *pflag.FlagSet) error {
	var errs []error
	resolves := given.Changed("pseudonym-key-file") || given.Changed("pseudonym-key-env")
	given.Visit(func(f *pflag.Flag) {
		if f.Name == "user-subject" && resolves {
			return // the record has a pseudonym for it
		}
		if slices.Contains(fromRecord, f.Name) {
			errs = append(errs, fmt.Errorf("--%s: --call takes it from the record", f.Name))
		}
	})
	return errors.Join(errs...)
}
