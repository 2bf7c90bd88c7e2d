package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxSocketPath is the longest path of a unix socket on Linux, without the zero
// at its end.
const maxSocketPath = 107

// workloadAPIAddress is the URI of the Workload API that is configured, or in
// the environment.
func workloadAPIAddress(configured string) (string, error) {
	addr := configured
	if addr == "" {
		addr = os.Getenv(workloadapi.SocketEnv)
	}
	if addr == "" {
		return "", fmt.Errorf("no SPIFFE Workload API: neither workload_api is configured nor %s set in the environment", workloadapi.SocketEnv)
	}
	if !strings.HasPrefix(addr, "unix:") && !strings.HasPrefix(addr, "tcp:") {
		path, err := filepath.Abs(addr)
		if err != nil {
			return "", fmt.Errorf("SPIFFE Workload API at %s: %w", addr, err)
		}
		addr = (&url.URL{Scheme: "unix", Path: path}).String()
	}
	if u, err := url.Parse(addr); err == nil && u.Scheme == "unix" {
		switch {
		case u.Host != "":
			return "", fmt.Errorf("SPIFFE Workload API at %s: a path begins with a third slash: unix:///%s%s", addr, u.Host, u.Path)
		case len(u.Path) > maxSocketPath:
			return "", fmt.Errorf("SPIFFE Workload API at %s: the path has %d bytes, a socket's can have %d", addr, len(u.Path), maxSocketPath)
		}
	}
	if err := workloadapi.ValidateAddress(addr); err != nil {
		return "", fmt.Errorf("SPIFFE Workload API at %s: %w", addr, err)
	}
	return addr, nil
}

// diagnose says why no SVID came and what to look at. A call's error does not
// tell it: gRPC makes text of the system's errors. So it dials for itself.
func diagnose(ctx context.Context, addr string, last error) string {
	network, target := "unix", ""
	if u, err := url.Parse(addr); err == nil {
		network, target = u.Scheme, u.Path
		if network == "tcp" {
			target = u.Host
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, target)
	if err == nil {
		_ = conn.Close()
		err = last
	}
	if err == nil {
		return hint(err)
	}
	return fmt.Sprintf("%s (%v)", hint(err), err)
}

// hint says what to look at when err is what came instead of an SVID.
func hint(err error) string {
	switch {
	case err == nil || strings.Contains(err.Error(), "reading server preface"):
		return "connections are taken, but nothing answers; is this a SPIFFE Workload API?"
	case errors.Is(err, fs.ErrNotExist):
		return "the socket does not exist; is the SPIFFE agent running, and is this its socket?"
	case errors.Is(err, fs.ErrPermission):
		return "this process may not open the socket; look at the permissions of the socket and the folders above"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there; is the SPIFFE agent running?"
	}
	switch status.Code(err) {
	case codes.PermissionDenied:
		return "it answers, but issues no identity to this process; is a registration entry there that matches it?"
	case codes.Unimplemented:
		return "it answers, but is not a SPIFFE Workload API"
	default:
		return "it does not issue an SVID"
	}
}
