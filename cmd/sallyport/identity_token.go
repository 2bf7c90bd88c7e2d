package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
)

// tokenFlags are the flags of identity token.
type tokenFlags struct {
	socket, subject string
	audiences       []string
	timeout         time.Duration
}

func newIdentityToken() *cobra.Command {
	var flags tokenFlags
	cmd := &cobra.Command{
		Use:   "token --audience AUDIENCE [flags]",
		Short: "Print a JWT-SVID, as which a user is proved",
		Long: `Print a JWT-SVID that the SPIFFE Workload API issues, and a line break. Whoever
has it can use it at every one of its audiences until it expires: keep it as you
keep a password.`,
		Example: `  (umask 077; sallyport identity token --socket dev/workloads/clinic.sock --audience spiffe://sallyport.test/sallyport >token)
  sallyport predict digits --socket dev/workloads/partner.sock --token-file token --input rows.csv`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printToken(cmd.Context(), cmd.OutOrStdout(), flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.socket, "socket", "", "socket of the SPIFFE Workload API, a path or unix:///path (default $"+workloadapi.SocketEnv+")")
	f.StringArrayVar(&flags.audiences, "audience", nil, "whom the token is for, as the server's identity.users says; may be repeated")
	f.StringVar(&flags.subject, "subject", "", "SPIFFE ID that the token is of, for a workload that has several (default the first)")
	f.DurationVar(&flags.timeout, "timeout", 10*time.Second, "longest wait for the token")
	return cmd
}

func printToken(ctx context.Context, w io.Writer, flags tokenFlags) error {
	params, err := flags.params()
	if err != nil {
		return usage(err)
	}
	socket := cmp.Or(flags.socket, os.Getenv(workloadapi.SocketEnv))
	if err := checkSocket(socket); err != nil {
		return err
	}
	addr, err := socketAddress(socket)
	if err != nil {
		return usage(fmt.Errorf("--socket: %w", err))
	}
	ctx, cancel := context.WithTimeout(ctx, flags.timeout)
	defer cancel()
	svid, err := workloadapi.FetchJWTSVID(ctx, params, workloadapi.WithAddr(addr))
	if err != nil {
		if statusOf(err).Code() == codes.PermissionDenied {
			err = errors.New("it issues no such identity to this process")
		}
		return fmt.Errorf("JWT-SVID from the SPIFFE Workload API at %s: %w", printable(socket), err)
	}
	if flags.subject != "" && svid.ID.String() != flags.subject {
		return fmt.Errorf("JWT-SVID from the SPIFFE Workload API at %s: it is of %s, not of %s", printable(socket), svid.ID, flags.subject)
	}
	_, err = fmt.Fprintln(w, svid.Marshal())
	return err
}

// params is what is asked for; the error joins all faults of the flags.
func (f *tokenFlags) params() (jwtsvid.Params, error) {
	var p jwtsvid.Params
	var errs []error
	for i, audience := range f.audiences {
		switch {
		case audience == "":
			errs = append(errs, errors.New("--audience: must not be empty"))
		case i == 0:
			p.Audience = audience
		default:
			p.ExtraAudiences = append(p.ExtraAudiences, audience)
		}
	}
	if len(f.audiences) == 0 {
		errs = append(errs, errors.New("for whom? give --audience, as the server's identity.users says"))
	}
	if f.subject != "" {
		id, err := spiffeid.FromString(f.subject)
		if err != nil {
			errs = append(errs, fmt.Errorf("--subject %q: %w", f.subject, err))
		}
		p.Subject = id
	}
	if f.timeout <= 0 {
		errs = append(errs, fmt.Errorf("--timeout %v: must be more than 0", f.timeout))
	}
	return p, errors.Join(errs...)
}

// socketAddress is the URI of a socket that may be a path.
func socketAddress(socket string) (string, error) {
	if workloadapi.ValidateAddress(socket) == nil {
		return socket, nil
	}
	path, err := filepath.Abs(socket)
	if err != nil {
		return "", err
	}
	return "unix://" + path, workloadapi.ValidateAddress("unix://" + path)
}
