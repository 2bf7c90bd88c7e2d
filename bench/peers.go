package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/peers"
	"github.com/sallyport/sallyport/bench/peers/contract"
	"github.com/sallyport/sallyport/bench/peers/modelserver"
	"github.com/sallyport/sallyport/bench/target"
)

func newPeers() *cobra.Command {
	var flags siteFlags
	cfg := peers.Config{Cores: runtime.GOMAXPROCS(0)}
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Compare with FastAPI, Flask, MLServer and Envoy",
		Long: `Compare with what people serve models with today: FastAPI, Flask, MLServer, and
Envoy before a gRPC server.

Their environments must be installed, which make bench-peers does. It is an error
if one does not answer as Sallyport does, or answers what it should refuse.

Writes PEERS.md. Run it on a machine that does nothing else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := settings(&flags, peers.Full, peers.Short, peers.Moment)
			if err != nil {
				return err
			}
			cfg.Source = filepath.Join(flags.root, "bench", "peers")
			return flags.at(cmd, peers.Callers, func(site *target.Site) error {
				machine, err := flags.machine(cmd, site)
				if err != nil {
					return err
				}
				results, err := peers.Run(cmd.Context(), site, cfg, set, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				return results.Write(flags.out, machine)
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&cfg.Environments, "environments", "build/peers", "directory of the peers' environments")
	return cmd
}

// newModelServer is the server behind Envoy, as a process of its own.
func newModelServer() *cobra.Command {
	var specs, library string
	cmd := &cobra.Command{
		Use:    "model-server",
		Short:  "Serve models in plaintext on loopback, behind a proxy",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := os.ReadFile(specs) //nolint:gosec // the flag names it
			if err != nil {
				return err
			}
			models := map[string]contract.Model{}
			if err := json.Unmarshal(text, &models); err != nil {
				return err
			}
			return modelserver.Serve(cmd.Context(), library, models, func(address string) {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "ready %s\n", address)
			})
		},
	}
	cmd.Flags().StringVar(&specs, "models", "", "file with the models and their contracts")
	cmd.Flags().StringVar(&library, "library", "", "ONNX Runtime's library")
	return cmd
}
