package soak

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"

	"github.com/sallyport/sallyport/bench/report"
	"github.com/sallyport/sallyport/bench/watch"
)

// What counts as flat: a line through the samples after the first quarter, in
// which the server warms up, rises by no more than this part, or by as many as
// come and go with calls.
const (
	growth     = 0.05
	comeAndGo  = 16
	comeAndMiB = 16 << 20
	// verdict is how long it must have been to tell.
	verdict = time.Minute
)

type figure struct {
	name  string
	of    func(watch.Sample) float64
	text  func(float64) string
	slack float64
}

var figures = []figure{
	{"resident memory", watch.RSS, report.Bytes, comeAndMiB},
	{"goroutines", watch.Goroutines, report.Count, comeAndGo},
	{"descriptors", watch.Descriptors, report.Count, comeAndGo},
	{"threads", watch.Threads, report.Count, comeAndGo},
}

func (f *figure) grows(s watch.Samples) bool {
	t := s.Trend(0.25, f.of)
	return t.Last-t.First > max(growth*t.First, f.slack)
}

// Err says what grew, or which calls failed.
func (r *Results) Err() error {
	var errs []error
	// OVERLOADED is an answer, on a machine that others use too.
	if n := r.Load.AllErrors() - r.Load.Errors["OVERLOADED"]; n > 0 {
		errs = append(errs, fmt.Errorf("soak: %d calls failed: %v", n, r.Load.Errors))
	}
	for i := range figures {
		if f := &figures[i]; r.Duration >= verdict && f.grows(r.Samples) {
			errs = append(errs, fmt.Errorf("soak: %s grow", f.name))
		}
	}
	return errors.Join(errs...)
}

// Write writes SOAK.md and its plots into dir.
func (r *Results) Write(dir string, machine *report.Machine) error {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, `# Soak

Written by `+"`make bench-soak`"+`: %v at %.0f %% of the capacity, which is %s calls/s here. One
caller in 16 opens a stream for %d batches, one a connection for one call, again and
again; the others make calls of one and of 64 rows of all models. Figures are of a line
through the samples after the first quarter, in which the server warms up.

`, r.Duration, 100*r.Share, report.Count(r.Capacity), batches)
	b.WriteString(machine.Markdown())
	t := report.NewTable("", "after a quarter", "at the end", "most", "grows")
	var errs []error
	for i := range figures {
		f := &figures[i]
		trend, verdictText := r.Samples.Trend(0.25, f.of), "no"
		if f.grows(r.Samples) {
			verdictText = "**yes**"
		}
		if r.Duration < verdict {
			verdictText = "too short to tell"
		}
		t.Row(f.name, f.text(trend.First), f.text(trend.Last), f.text(trend.Max), verdictText)
		line := report.Line{Name: f.name}
		for _, s := range r.Samples {
			y := f.of(s)
			if i == 0 {
				y /= 1 << 20
			}
			line.Points = append(line.Points, plotter.XY{X: s.At.Minutes(), Y: y})
		}
		axis := ""
		if i == 0 {
			axis = "MiB"
		}
		name := "soak-" + strings.ReplaceAll(f.name, " ", "-") + ".svg"
		errs = append(errs, report.Lines(filepath.Join(dir, "plots", name), "Soak: "+f.name, "minutes", axis, false, []report.Line{line}))
	}
	b.WriteString("\n" + t.String())
	_, _ = fmt.Fprintf(&b, "\n%s calls answered, %d failed%s; p50 %s, p99 %s, p99.9 %s.\n\n![Memory](plots/soak-resident-memory.svg)\n![Goroutines](plots/soak-goroutines.svg)\n![Descriptors](plots/soak-descriptors.svg)\n",
		report.Count(float64(r.Load.Calls)), r.Load.AllErrors(), kinds(r.Load.Errors),
		report.Duration(r.Load.Latency.Quantile(0.5)), report.Duration(r.Load.Latency.Quantile(0.99)), report.Duration(r.Load.Latency.Quantile(0.999)))
	return errors.Join(append(errs, os.WriteFile(filepath.Join(dir, "SOAK.md"), []byte(b.String()), 0o644))...) //nolint:gosec // a document
}

func kinds(errs map[string]int64) string {
	if len(errs) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%v)", errs)
}
