package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/examples"
	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity/devauthority"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/proto/configfile"
)

//go:embed templates
var templates embed.FS

// devFlags are the flags of dev.
type devFlags struct {
	dir    string
	listen string
	admin  string
	// ttl is how long an X.509-SVID holds.
	ttl time.Duration
}

func newDev() *cobra.Command {
	var flags devFlags
	var level string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Serve the example models on this machine, with an authority of its own",
		Long: `Serve the example models with a SPIFFE authority for this machine beside them.

Everything is kept under one directory:
  DIR/workloads/NAME.sock  the Workload API of one workload: server, clinic and
                           ward-batch (which have roles), intern (which has
                           none), partner (of a federated trust domain, with a
                           role) and outsider (of one that is not federated)
  DIR/sallyport.yaml       the server's configuration
  DIR/policy.yaml          who may do what
  DIR/policy_cases.yaml    what it must decide, for policy test
  DIR/models               the model repository
  DIR/audit                the audit log
  DIR/audit-signing.key    the key that signs its checkpoints
  DIR/authority            the authority's keys

Files that exist are left as they are. When calls are answered, one line is
printed: ready ADDRESS. For development: who can open a socket is that workload.`,
		Example: `  sallyport dev --dir ./dev --listen 127.0.0.1:7443
  sallyport predict breast-cancer --socket ./dev/workloads/clinic.sock --server 127.0.0.1:7443 --input rows.csv`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(cmd.ErrOrStderr(), level)
			if err != nil {
				return usage(err)
			}
			heard := notifyServerSignals()
			defer heard.release()
			return runDev(cmd.Context(), flags, log, heard, func(address string) {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "ready %s\n", address)
			})
		},
	}
	cmd.Flags().StringVar(&flags.dir, "dir", "dev", "directory that holds everything")
	cmd.Flags().StringVar(&flags.listen, "listen", "", "address of the server; unless given, what sallyport.yaml says, at first 127.0.0.1:7443")
	cmd.Flags().StringVar(&flags.admin, "admin", "", "address of /livez, /readyz and /metrics; unless given, what sallyport.yaml says, at first 127.0.0.1:7480")
	cmd.Flags().DurationVar(&flags.ttl, "svid-ttl", defaultTTL, "how long an X.509-SVID holds; a new one is issued when half of it has passed, so that a short one shows rotation")
	logFlag(cmd, &level)
	return cmd
}

// runDev runs authority and server until ctx ends. ready is called once calls
// are answered.
func runDev(ctx context.Context, flags devFlags, log *slog.Logger, heard *serverSignals, ready func(address string)) error {
	workloads := devauthority.DefaultWorkloads()
	if err := flags.check(workloads); err != nil {
		return usage(err)
	}
	if err := layOut(flags); err != nil {
		return err
	}
	authority, err := devauthority.Start(devauthority.Config{Dir: flags.dir, Workloads: workloads, TTL: flags.ttl, Log: log})
	if err != nil {
		return err
	}
	err = serveDev(ctx, flags, log, heard, ready)
	return errors.Join(err, authority.Close())
}

const (
	// defaultTTL is how long an X.509-SVID holds.
	defaultTTL = time.Hour
	// minTTL is the shortest that it can: certificates count whole seconds.
	minTTL = 2 * time.Second
)

// check finds what is wrong before anything is written.
func (f devFlags) check(workloads []devauthority.Workload) error {
	cfg, err := f.render("sallyport.yaml")
	if err != nil {
		return err
	}
	if err := configfile.Parse("--listen or --admin", cfg, &configv1.Server{}); err != nil {
		return err
	}
	if f.ttl < minTTL {
		return fmt.Errorf("--svid-ttl %v: must be at least %v", f.ttl, minTTL)
	}
	dir, err := filepath.Abs(f.dir)
	if err != nil {
		return err
	}
	const longest = len(syscall.RawSockaddrUnix{}.Path) - 1
	for _, w := range workloads {
		if socket := filepath.Join(dir, "workloads", w.Name+".sock"); len(socket) > longest {
			return fmt.Errorf("--dir: the path of socket %s has %d bytes, more than the %d that the system allows", socket, len(socket), longest)
		}
	}
	return nil
}

func serveDev(ctx context.Context, flags devFlags, log *slog.Logger, heard *serverSignals, ready func(address string)) error {
	cfg, err := loadConfig(filepath.Join(flags.dir, "sallyport.yaml"))
	if err != nil {
		return usage(err)
	}
	if flags.listen != "" {
		cfg.Listen = flags.listen
	}
	if flags.admin != "" {
		cfg.Admin.Listen = flags.admin
	}
	p, err := assemble(ctx, cfg, log)
	if err != nil {
		return err
	}
	// The listener is open: a call made now is answered.
	ready(p.listener.Addr().String())
	return p.run(ctx, heard)
}

// render is one of the templates with the flags in it.
func (f devFlags) render(name string) ([]byte, error) {
	t, err := template.ParseFS(templates, "templates/"+name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, struct{ Listen, Admin string }{
		cmp.Or(f.listen, "127.0.0.1:7443"), cmp.Or(f.admin, "127.0.0.1:7480"),
	})
	return b.Bytes(), err
}

// layOut makes the files of a development directory that are not there.
func layOut(flags devFlags) error {
	if err := os.MkdirAll(flags.dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"sallyport.yaml", "policy.yaml", "policy_cases.yaml"} {
		content, err := flags.render(name)
		if err != nil {
			return err
		}
		if err := writeNew(filepath.Join(flags.dir, name), bytes.NewReader(content)); err != nil {
			return err
		}
	}
	key := make([]byte, audit.KeyBytes)
	_, _ = rand.Read(key)
	if err := writeNew(filepath.Join(flags.dir, "audit.key"), bytes.NewReader(key)); err != nil {
		return err
	}
	signing, _, err := audit.GenerateKey("sallyport.test/dev")
	if err == nil {
		err = writeNew(filepath.Join(flags.dir, "audit-signing.key"), strings.NewReader(signing+"\n"))
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(flags.dir, "models")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	models, err := fs.Sub(examples.FS, "models")
	if err != nil {
		return err
	}
	return os.CopyFS(filepath.Join(flags.dir, "models"), models)
}

// writeNew writes a file that only its user can read, unless it exists. The
// file is there whole or not at all.
func writeNew(path string, content io.Reader) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
