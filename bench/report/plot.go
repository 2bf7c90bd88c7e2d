package report

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/sallyport/sallyport/bench/compare"
)

// colours are told apart by everybody (Okabe and Ito), lightest last.
var colours = []color.Color{
	color.RGBA{0, 114, 178, 255}, color.RGBA{213, 94, 0, 255}, color.RGBA{0, 158, 115, 255},
	color.RGBA{204, 121, 167, 255}, color.RGBA{230, 159, 0, 255}, color.RGBA{86, 180, 233, 255},
}

// Bar is a figure with a name and its spread.
type Bar struct {
	Name string
	compare.Spread
}

// Bars draws bars with the line that they are to reach.
func Bars(path, title, axis string, goal float64, bars []Bar) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = title, axis
	p.X.Min = 0
	var names []string
	errs := struct {
		plotter.XYs
		plotter.XErrors
	}{}
	values := make(plotter.Values, len(bars))
	for i, b := range bars {
		at := len(bars) - 1 - i // the first at the top
		values[at] = b.Median
		errs.XYs = append(errs.XYs, plotter.XY{X: b.Median, Y: float64(at)})
		errs.XErrors = append(errs.XErrors, struct{ Low, High float64 }{b.Median - b.Min, b.Max - b.Median})
		names = append([]string{b.Name}, names...)
	}
	chart, err := plotter.NewBarChart(values, vg.Points(12))
	if err != nil {
		return err
	}
	chart.Horizontal, chart.Color, chart.LineStyle.Width = true, colours[5], 0
	spread, err := plotter.NewXErrorBars(errs)
	if err != nil {
		return err
	}
	p.Add(plotter.NewGrid(), chart, spread)
	if goal > 0 {
		line, err := plotter.NewLine(plotter.XYs{{X: goal, Y: -0.5}, {X: goal, Y: float64(len(bars)) - 0.5}})
		if err != nil {
			return err
		}
		line.Color, line.Width, line.Dashes = colours[1], vg.Points(1.5), []vg.Length{vg.Points(4), vg.Points(3)}
		p.Add(line)
	}
	p.NominalY(names...)
	return save(p, path, vg.Length(60+20*len(bars)))
}

// Line is a named line of a plot.
type Line struct {
	Name   string
	Points plotter.XYs
}

// Lines draws lines; both axes are logarithmic if log is true.
func Lines(path, title, x, y string, log bool, lines []Line) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	if log {
		p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
		p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	} else {
		p.Y.Min = 0
	}
	p.Add(plotter.NewGrid())
	for i, l := range lines {
		line, points, err := plotter.NewLinePoints(l.Points)
		if err != nil {
			return fmt.Errorf("%s: %w", l.Name, err)
		}
		line.Color, line.Width = colours[i%len(colours)], vg.Points(1.5)
		points.Color, points.Shape, points.Radius = line.Color, draw.CircleGlyph{}, vg.Points(1.5)
		p.Add(line, points)
		p.Legend.Add(l.Name, line)
	}
	p.Legend.Top, p.Legend.Left = true, true
	return save(p, path, 320)
}

func save(p *plot.Plot, path string, height vg.Length) error {
	p.BackgroundColor = color.White
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return p.Save(560, height, path)
}

// Percentiles is a latency distribution as a line: its x is how many nines of the
// calls are within, so that the tail is seen.
func Percentiles(name string, s compare.Slice) Line {
	l := Line{Name: name}
	for nines := 0.0; nines <= 3.0001; nines += 0.1 {
		q := 1 - math.Pow(10, -nines)
		if nines == 0 {
			q = 0.0
		}
		if v := s.Latency.Quantile(q); v > 0 {
			l.Points = append(l.Points, plotter.XY{X: nines, Y: float64(v) / float64(time.Millisecond)})
		}
	}
	return l
}
