package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/bench/engine"
	"github.com/sallyport/sallyport/bench/report"
	"github.com/sallyport/sallyport/bench/target"
)

// siteFlags are the flags of all that measure.
type siteFlags struct {
	sallyport, library, out, root, length string
}

func (f *siteFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.sallyport, "sallyport", "bin/sallyport", "the binary that is measured")
	cmd.Flags().StringVar(&f.library, "library", "bin/libonnxruntime.so", "ONNX Runtime's library")
	cmd.Flags().StringVar(&f.root, "root", ".", "the repository, for its commit")
	cmd.Flags().StringVar(&f.out, "out", "bench", "directory to write results to")
	cmd.Flags().StringVar(&f.length, "length", lengthFull, "full; short, to see in half a minute that everything works; moment, which tests do")
}

// How long is measured. Only full is judged.
const (
	lengthFull   = "full"
	lengthShort  = "short"
	lengthMoment = "moment"
)

// settings picks those of the length.
func settings[T any](f *siteFlags, full, short, moment T) (T, error) {
	switch f.length {
	case lengthFull:
		return full, nil
	case lengthShort:
		return short, nil
	case lengthMoment:
		return moment, nil
	}
	return full, fmt.Errorf("--length %s: must be %s, %s or %s", f.length, lengthFull, lengthShort, lengthMoment)
}

// judged is what a measurement found wrong, unless it was too short to tell.
func (f *siteFlags) judged(cmd *cobra.Command, found error) error {
	if found != nil && f.length != lengthFull {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "too short to tell: %v\n", found)
		return nil
	}
	return found
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
