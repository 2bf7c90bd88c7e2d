package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func newQuota() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quota",
		Short: "Show who has used how much",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newQuotaShow())
	return cmd
}

// quotaFlags are the flags of quota show.
type quotaFlags struct {
	admin, caller string
	limit         int
	json          bool
}

func newQuotaShow() *cobra.Command {
	var flags quotaFlags
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show who has used how much, and what is left",
		Long: `Show for each caller that a server remembers how much of its limits is used and
what is left, those first that are nearest to a limit. It asks the server's admin
listener, so it runs on the server's machine.

Where replicas share quotas what is left is by the use of all of them; what other
replicas hold as leases counts as used. Streams are those of this replica. Model
time is in milliseconds.`,
		Example: `  sallyport quota show
  sallyport quota show --caller 'spiffe://example.org/clinic/*' --json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.limit < 1 || flags.limit > maxQuotaAccounts {
				return usage(fmt.Errorf("--limit %d: must be 1 to %d", flags.limit, maxQuotaAccounts))
			}
			page, err := fetchQuota(cmd.Context(), flags)
			if err != nil {
				return err
			}
			if flags.json {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(page)
			}
			return writeQuota(cmd.OutOrStdout(), page)
		},
	}
	cmd.Flags().StringVar(&flags.admin, "admin", "127.0.0.1:7480", "address of the server's admin listener")
	cmd.Flags().StringVar(&flags.caller, "caller", "", "only this SPIFFE ID, or those that begin as it does if it ends with *")
	cmd.Flags().IntVarP(&flags.limit, "limit", "n", defaultQuotaAccounts, "how many callers")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON")
	return cmd
}

const (
	quotaTimeout      = 30 * time.Second
	maxQuotaPageBytes = 64 << 20
)

// fetchQuota asks a server's admin listener.
func fetchQuota(ctx context.Context, flags quotaFlags) (*quotaPage, error) {
	ctx, cancel := context.WithTimeout(ctx, quotaTimeout)
	defer cancel()
	at := url.URL{
		Scheme: "http", Host: flags.admin, Path: "/quota",
		RawQuery: url.Values{"caller": {flags.caller}, "limit": {strconv.Itoa(flags.limit)}}.Encode(),
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, usage(fmt.Errorf("--admin %s: %w", flags.admin, err))
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and no proxy: it is this machine
	answer, err := client.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("nobody listens at %s; is the server running, and is that its admin.listen?", flags.admin)
	} else if err != nil {
		return nil, fmt.Errorf("ask %s: %w", flags.admin, err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxQuotaPageBytes))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", flags.admin, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s to /quota: %s", flags.admin, answer.Status, printable(strings.TrimSpace(string(body[:min(len(body), 200)]))))
	}
	page := &quotaPage{}
	if err := json.Unmarshal(body, page); err != nil {
		return nil, fmt.Errorf("the answer of %s is not that of a sallyport server: %w", flags.admin, err)
	}
	return page, nil
}

// writeQuota writes a line for each limit of each caller.
func writeQuota(w io.Writer, page *quotaPage) error {
	if page.Away != "" {
		if _, err := fmt.Fprintf(w, "The store does not answer; this is what the replica knows: %s\n", printable(page.Away)); err != nil {
			return err
		}
	}
	if len(page.Accounts) == 0 {
		_, err := fmt.Fprintln(w, "No caller is remembered.")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CALLER\tROLES\tLIMIT\tUSED\tLEFT\tOF\tRESETS IN") //nolint:errcheck // Flush returns it
	for _, a := range page.Accounts {
		who, roles := printable(a.Caller), printable(strings.Join(a.Roles, ","))
		for _, l := range a.Limits {
			reset := "-"
			if l.ResetSeconds > 0 {
				reset = seconds(time.Duration(l.ResetSeconds * float64(time.Second)))
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", who, roles, printable(l.Limit), l.Used, l.Left, l.Most, reset) //nolint:errcheck // Flush returns it
			who, roles = "", ""
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if page.LeftOut > 0 {
		_, err := fmt.Fprintf(w, "and %d more; --limit shows more, --caller chooses\n", page.LeftOut)
		return err
	}
	return nil
}
