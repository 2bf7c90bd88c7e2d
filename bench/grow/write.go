package grow

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot/plotter"

	"github.com/sallyport/sallyport/bench/report"
)

// Write writes GROWTH.md and its plots into dir.
func Write(dir string, machine *report.Machine, all []*Series) error {
	var b strings.Builder
	b.WriteString(`# How cost grows

Written by ` + "`make bench-grow`" + `. In brackets is the exponent since the line above: 1 is in
proportion, 0 is not at all. The last line is the slope of a line through the logarithms
and the most that it may be: of the last three points for what may grow in proportion, of
all for what may not grow. Times are what the fastest tenth does not exceed. Servers have
every gate on, and records do not wait for the disk (ASYNC), whose whims are larger than
what is looked for.

`)
	b.WriteString(machine.Markdown())
	var errs []error
	for _, s := range all {
		name := "grow-" + strings.ReplaceAll(s.Name, " ", "-") + ".svg"
		b.WriteString("\n## " + strings.ToUpper(s.Name[:1]) + s.Name[1:] + "\n\n" + s.About + "\n\n" + s.Markdown() + "\n![" + s.Name + "](plots/" + name + ")\n")
		var lines []report.Line
		for i, c := range s.Columns {
			line := report.Line{Name: c.Name + ", of that with the fewest"}
			for _, p := range s.Points {
				line.Points = append(line.Points, plotter.XY{X: float64(p.N), Y: p.Values[i] / s.Points[0].Values[i]})
			}
			lines = append(lines, line)
		}
		errs = append(errs, report.Lines(filepath.Join(dir, "plots", name), "Cost by "+s.Name, s.Name, "times", true, lines))
	}
	errs = append(errs, os.WriteFile(filepath.Join(dir, "GROWTH.md"), []byte(b.String()), 0o644)) //nolint:gosec // a document
	return errors.Join(errs...)
}
