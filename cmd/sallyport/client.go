package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	sallyport "github.com/sallyport/sallyport/clients/go"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/proto/configfile"
)

const (
	serverEnv = "SALLYPORT_SERVER"
	// maxIdentityWait bounds the wait for an SVID, which an agent that has one
	// issues at once.
	maxIdentityWait = 10 * time.Second
)

// clientFlags say which server to call, and as whom.
type clientFlags struct {
	// server is HOST:PORT of each server; empty for what serverEnv says, with commas
	// in between.
	server []string
	// socket is the Workload API's: a path or a URI; empty for what
	// SPIFFE_ENDPOINT_SOCKET says.
	socket string
	// serverID is the SPIFFE ID of the server; empty for identity.DefaultServer.
	serverID string
	// tokenFile has the token of the user on whose behalf; empty if there is none.
	tokenFile string
	// timeout bounds the whole command; 0 if nothing does.
	timeout time.Duration
}

func (f *clientFlags) register(cmd *cobra.Command) {
	f.registerServer(cmd)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "longest that the command may take")
}

// registerServer is register for a command that takes as long as it takes.
func (f *clientFlags) registerServer(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.server, "server", nil, "address of the server, HOST:PORT; may be given for each replica (default $"+serverEnv+", with commas in between)")
	flags.StringVar(&f.socket, "socket", "", "socket of the SPIFFE Workload API, a path or unix:///path (default $"+workloadapi.SocketEnv+")")
	flags.StringVar(&f.serverID, "server-id", "", "SPIFFE ID that the server must have (default any with the path "+identity.ServerPath+")")
	flags.StringVar(&f.tokenFile, "token-file", "", "file with the token of the user on whose behalf to call, without Bearer; read for each call")
}

// bound returns ctx with the timeout of the flags.
func (f *clientFlags) bound(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if f.timeout <= 0 {
		return nil, nil, usage(fmt.Errorf("--timeout %v: must be more than 0", f.timeout))
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	return ctx, cancel, nil
}

// client calls a server as the workload that the flags name.
type client = sallyport.Client

// dial blocks until the Workload API has issued an SVID. The connection itself
// is made by the first call, which fails at once if it cannot be made; classify
// its error. Unary calls that the server was not able to take are made up to
// three times. The caller closes the client.
func dial(ctx context.Context, flags clientFlags) (*client, error) {
	servers, err := flags.servers()
	if err != nil {
		return nil, err
	}
	authorize := identity.DefaultServer()
	if flags.serverID != "" {
		id, err := spiffeid.FromString(flags.serverID)
		if err != nil {
			return nil, usage(fmt.Errorf("--server-id %q: %w", flags.serverID, err))
		}
		authorize = identity.ServerID(id)
	}
	token, err := flags.token()
	if err != nil {
		return nil, err
	}
	socket := cmp.Or(flags.socket, os.Getenv(workloadapi.SocketEnv))
	if err := checkSocket(socket); err != nil {
		return nil, err
	}
	return sallyport.Dial(ctx, sallyport.Config{
		Servers:     servers,
		WorkloadAPI: socket,
		ServerID:    authorize,
		Token:       token,
		Retry:       sallyport.Retry{Attempts: 3},
		// Some of the time is left to find out why there is none.
		StartTimeout: cmp.Or(min(flags.timeout/2, maxIdentityWait), maxIdentityWait),
	})
}

// servers are the addresses to call.
func (f *clientFlags) servers() ([]string, error) {
	servers := f.server
	if env := os.Getenv(serverEnv); len(servers) == 0 && env != "" {
		servers = strings.Split(env, ",")
	}
	if len(servers) == 0 {
		return nil, usage(fmt.Errorf("which server? give --server HOST:PORT or set %s", serverEnv))
	}
	for _, server := range servers {
		if _, port, err := net.SplitHostPort(server); err != nil || port == "" {
			return nil, usage(fmt.Errorf("--server %q: must be HOST:PORT", server))
		}
	}
	return servers, nil
}

// checkSocket finds out at once what would otherwise take the whole wait for an
// SVID.
func checkSocket(socket string) error {
	if socket == "" {
		return usage(fmt.Errorf("as whom? give --socket PATH of a SPIFFE Workload API or set %s", workloadapi.SocketEnv))
	}
	path := socket
	switch u, err := url.Parse(socket); {
	case err != nil:
		return usage(fmt.Errorf("--socket %q: %w", socket, err))
	case u.Scheme == "tcp":
		return nil
	case u.Scheme == "unix":
		path = cmp.Or(u.Path, u.Opaque)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) { //nolint:gosec // the path that the user named
		return fmt.Errorf("no SPIFFE Workload API at %s: the socket does not exist; is the agent, or 'sallyport dev', running?", printable(path))
	}
	return nil
}

// maxToken bounds what is read from a token's file.
const maxToken = 64 << 10

// token reads the token for each call; nil if there is none. One that cannot be
// used is an error of usage, found before anybody is called.
func (f *clientFlags) token() (func(context.Context) (string, error), error) {
	if f.tokenFile == "" {
		return nil, nil //nolint:nilnil // the workload calls for itself
	}
	_, err := readToken(f.tokenFile)
	return func(context.Context) (string, error) { return readToken(f.tokenFile) }, err
}

// readToken is the token in a file; white space around it is not part of it. No
// error holds any of it.
func readToken(path string) (string, error) {
	raw, err := configfile.Read(path, maxToken)
	if err != nil {
		return "", usage(fmt.Errorf("--token-file: %w", err))
	}
	token := strings.TrimSpace(string(raw))
	scheme, _, two := strings.Cut(token, " ")
	switch {
	case token == "":
		return "", usage(fmt.Errorf("--token-file %s: it is empty", path))
	case two && strings.EqualFold(scheme, "Bearer"):
		return "", usage(fmt.Errorf("--token-file %s: only the token, without Bearer", path))
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", usage(fmt.Errorf("--token-file %s: it must hold one token and nothing else", path))
	}
	return token, nil
}
