package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/engine"
	"github.com/sallyport/sallyport/bench/report"
	"github.com/sallyport/sallyport/bench/target"
)

// siteFlags are the flags of all that measure.
type siteFlags struct {
	sallyport, library, out, root string

	short bool
}

func (f *siteFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.sallyport, "sallyport", "bin/sallyport", "the binary that is measured")
	cmd.Flags().StringVar(&f.library, "library", "bin/libonnxruntime.so", "ONNX Runtime's library")
	cmd.Flags().StringVar(&f.root, "root", ".", "the repository, for its commit")
	cmd.Flags().StringVar(&f.out, "out", "bench", "directory to write results to")
	cmd.Flags().BoolVar(&f.short, "short", false, "measure for a moment only, to see that everything works")
}

// at does something at a site with so many callers.
func (f *siteFlags) at(cmd *cobra.Command, callers int, do func(*target.Site) error) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	site, err := target.NewSite(cmd.Context(), target.Config{
		Sallyport: f.sallyport, Bench: self, Library: f.library, Callers: callers,
	})
	if err != nil {
		return err
	}
	return errors.Join(do(site), site.Close())
}

// machine is what the site is on.
func (f *siteFlags) machine(cmd *cobra.Command, site *target.Site) (*report.Machine, error) {
	version, err := engine.LibraryVersion(f.library)
	if err != nil {
		return nil, err
	}
	return report.Look(cmd.Context(), f.root, site.Dir, version)
}
