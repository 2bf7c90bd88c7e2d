package overload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"

	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/report"
	"github.com/sallyport/sallyport/bench/watch"
)

// The goals of issue 5, and what counts as flat and as quickly.
const (
	goalP99     = 2.0
	goalGrowth  = 0.1
	goalRefused = 0.1
	goalRate    = 0.75
	overloaded  = "OVERLOADED"
)

// check is a demand and whether it is met.
type check struct {
	name, found string
	met         bool
}

func (r *Results) checks() []check {
	unloaded, p99 := r.Unloaded.Latency.Quantile(0.99), r.Overloaded.Latency.Quantile(0.99)
	refused := r.Overloaded.Failed.Quantile(0.99)
	ratio := p99.Seconds() / unloaded.Seconds()
	others := r.Overloaded.AllErrors() - r.Overloaded.Errors[overloaded]
	memory := r.Samples.Trend(0.25, watch.RSS)
	return []check{
		{fmt.Sprintf("p99 of what is answered at most %g times that without load", goalP99),
			fmt.Sprintf("%s to %s: %.2f times", report.Duration(p99), report.Duration(unloaded), ratio), ratio <= goalP99},
		{"it was too much", fmt.Sprintf("%d of %d calls refused", r.Overloaded.AllErrors(), r.Overloaded.AllErrors()+r.Overloaded.Calls),
			r.Overloaded.AllErrors() > 0},
		{"all else is refused as " + overloaded, fmt.Sprintf("%d of %d otherwise: %v", others, r.Overloaded.AllErrors(), r.Overloaded.Errors), others == 0},
		{fmt.Sprintf("refused within %v, p99", time.Duration(goalRefused*float64(time.Second))), report.Duration(refused), refused.Seconds() <= goalRefused},
		{"answered at least three quarters of the capacity", fmt.Sprintf("%.2f of it", r.Overloaded.Rate()/r.Capacity), r.Overloaded.Rate() >= goalRate*r.Capacity},
		{"each answered call is on record once", fmt.Sprintf("%d answered, %d missing, %d twice, %d with another code",
			r.Recorded.Answered, r.Recorded.Missing, r.Recorded.Twice, r.Recorded.Other), r.Recorded.Err() == nil},
		{fmt.Sprintf("memory grows at most %g %% after the first quarter", 100*goalGrowth), fmt.Sprintf("%s to %s: %+.1f %%",
			report.Bytes(memory.First), report.Bytes(memory.Last), 100*memory.Growth()), memory.Growth() <= goalGrowth},
	}
}

// Err says which demands are not met.
func (r *Results) Err() error {
	var errs []error
	for _, c := range r.checks() {
		if !c.met {
			errs = append(errs, fmt.Errorf("not met: %s: %s", c.name, c.found))
		}
	}
	return errors.Join(errs...)
}

// Write writes OVERLOAD.md and its plot into dir.
func (r *Results) Write(dir string, machine *report.Machine) error {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, `# Overload

Written by `+"`make bench-overload`"+`: %d callers bring %g times of what the server can
answer, for %v, evenly and whatever it answers; a latency counts from the time at which
the call was to start. The model works for some 15 milliseconds on a row of 256 bytes,
so that client and gates are not what is short. The server has every gate on and nothing
tuned, and shares the processor with the client.

`, r.Callers, r.Factor, r.Duration)
	b.WriteString(machine.Markdown())
	b.WriteString("\n")
	t := report.NewTable("demand", "found", "met")
	for _, c := range r.checks() {
		t.Row(c.name, c.found, map[bool]string{true: "yes", false: "**no**"}[c.met])
	}
	b.WriteString(t.String() + "\n")
	t = report.NewTable("", "meant/s", "answered/s", "refused/s", "p50", "p99", "p99.9", "refused, p50", "refused, p99", "began late, p99")
	for _, row := range []struct {
		name string
		rate float64
		*load.Result
	}{
		{"a fifth of the capacity", r.Capacity / 5, r.Light},
		{"half of it, which is called without load", r.Capacity / 2, r.Unloaded},
		{"overload", r.Capacity * r.Factor, r.Overloaded},
	} {
		res := row.Result
		t.Row(row.name, report.Count(row.rate), report.Count(res.Rate()), report.Count(float64(res.AllErrors())/res.Elapsed.Seconds()),
			report.Duration(res.Latency.Quantile(0.5)), report.Duration(res.Latency.Quantile(0.99)), report.Duration(res.Latency.Quantile(0.999)),
			report.Duration(res.Failed.Quantile(0.5)), report.Duration(res.Failed.Quantile(0.99)), report.Duration(res.Late.Quantile(0.99)))
	}
	b.WriteString(t.String())
	t = report.NewTable("by the server's clock, under overload", "calls", "p50", "p99", "p99.9")
	for _, row := range []struct {
		name string
		*load.Histogram
	}{{"answered", r.Recorded.Fine}, {"refused", r.Recorded.Refused}} {
		t.Row(row.name, report.Count(float64(row.Count())), report.Duration(row.Quantile(0.5)), report.Duration(row.Quantile(0.99)), report.Duration(row.Quantile(0.999)))
	}
	b.WriteString("\n" + t.String())
	_, _ = fmt.Fprintf(&b, "\nCapacity: %s calls/s. Under overload the server kept %.2f cores busy and the client %.2f.\nWithout an answer of the server, by kind: %v.\n\n```\n%s```\n\n![Memory](plots/overload.svg)\n",
		report.Count(r.Capacity), r.ServerCores, r.ClientCores, r.Recorded.Without, r.Recorded.Verified)
	line := report.Line{Name: "resident memory"}
	for _, s := range r.Samples {
		line.Points = append(line.Points, plotter.XY{X: s.At.Seconds(), Y: float64(s.RSS) / (1 << 20)})
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "OVERLOAD.md"), []byte(b.String()), 0o644), //nolint:gosec // a document
		report.Lines(filepath.Join(dir, "plots", "overload.svg"), "Memory of the server under overload", "seconds", "MiB", false, []report.Line{line}),
	)
}
