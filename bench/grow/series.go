// Package grow measures how cost grows with what there is more of: rows, streams,
// callers, models, rules. Nothing may grow faster than what there is, and what is
// looked up may not grow at all.
package grow

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat"

	"github.com/sallyport/sallyport/bench/report"
)

// Kind is how a figure may grow.
type Kind int

// The kinds. Linear is at most in proportion, Flat is not at all.
const (
	Linear Kind = iota
	Flat
)

// How steep a line may be through the logarithms of a figure. Linear is more than
// 1 by what caches and noise bring; so is Flat, where more than what a cache holds
// is looked through: twice as slow with ten thousand times as much is 0.08, and a
// search through all would be 1. A linear figure is judged at its steep end, where
// what is constant no longer hides it.
const (
	mostLinear = 1.15
	mostFlat   = 0.2
)

// Column is a figure of a series.
type Column struct {
	Name string
	Kind Kind
	Text func(float64) string
}

// Point is the figures, one a column, with so many of what there is more of.
type Point struct {
	N      int
	Values []float64
}

// Series is how cost grows with one thing.
type Series struct {
	// Name is what there is more of; About says what is measured.
	Name, About string
	Columns     []Column
	Points      []Point
}

func seconds(v float64) string { return report.Duration(duration(v)) }

// exponent is the slope of a figure's logarithm over that of N, from point i on.
func (s *Series) exponent(column, from int) float64 {
	var x, y []float64
	for _, p := range s.Points[from:] {
		x = append(x, math.Log(float64(p.N)))
		y = append(y, math.Log(max(p.Values[column], math.SmallestNonzeroFloat64)))
	}
	if len(x) < 2 {
		return 0
	}
	_, slope := stat.LinearRegression(x, y, nil, false)
	return slope
}

// judged is the slope that decides, and the most that it may be.
func (s *Series) judged(column int) (slope, most float64) {
	if s.Columns[column].Kind == Flat {
		return s.exponent(column, 0), mostFlat
	}
	return s.exponent(column, max(len(s.Points)-3, 0)), mostLinear
}

// Err says what grows faster than it may.
func (s *Series) Err() error {
	var errs []error
	for i, c := range s.Columns {
		if slope, most := s.judged(i); slope > most {
			errs = append(errs, fmt.Errorf("%s: %s grows with the power %.2f of %s, more than %.2f", s.Name, c.Name, slope, s.Name, most))
		}
	}
	return errors.Join(errs...)
}

// Markdown is the series as a table: each figure with the exponent since the line
// above it.
func (s *Series) Markdown() string {
	headings := []string{s.Name}
	for _, c := range s.Columns {
		headings = append(headings, c.Name)
	}
	t := report.NewTable(headings...)
	for i, p := range s.Points {
		row := []string{report.Count(float64(p.N))}
		for j, c := range s.Columns {
			cell := c.Text(p.Values[j])
			if i > 0 {
				cell += fmt.Sprintf(" (%.2f)", local(s.Points[i-1], p, j))
			}
			row = append(row, cell)
		}
		t.Row(row...)
	}
	verdict := []string{"exponent, of at most"}
	for i := range s.Columns {
		slope, most := s.judged(i)
		cell := fmt.Sprintf("%.2f, %.2f", slope, most)
		if slope > most {
			cell = "**" + cell + "**"
		}
		verdict = append(verdict, cell)
	}
	t.Row(verdict...)
	return t.String()
}

func local(a, b Point, column int) float64 {
	return math.Log(b.Values[column]/a.Values[column]) / math.Log(float64(b.N)/float64(a.N))
}
