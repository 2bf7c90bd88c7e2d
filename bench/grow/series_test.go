package grow_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/sallyport/sallyport/bench/grow"
)

func series(kind grow.Kind, cost func(n float64) float64) *grow.Series {
	s := &grow.Series{Name: "things", Columns: []grow.Column{{Name: "cost", Kind: kind, Text: func(v float64) string { return fmt.Sprint(v) }}}}
	for _, n := range []int{1, 10, 100, 1_000, 10_000, 100_000} {
		s.Points = append(s.Points, grow.Point{N: n, Values: []float64{cost(float64(n))}})
	}
	return s
}

func TestJudgement(t *testing.T) {
	for name, c := range map[string]struct {
		kind grow.Kind
		cost func(n float64) float64
		good bool
	}{
		"in proportion":                     {grow.Linear, func(n float64) float64 { return 50 + n }, true},
		"hidden by a constant, then square": {grow.Linear, func(n float64) float64 { return 1e6 + n*n }, false},
		"n log n":                           {grow.Linear, func(n float64) float64 { return n * math.Log2(2*n) }, true},
		"a little worse than linear":        {grow.Linear, func(n float64) float64 { return math.Pow(n, 1.3) }, false},
		"flat":                              {grow.Flat, func(float64) float64 { return 7 }, true},
		"caches":                            {grow.Flat, func(n float64) float64 { return 1 + math.Log10(n)/2 }, true},
		"a search through all":              {grow.Flat, func(n float64) float64 { return 100 + n }, false},
	} {
		if err := series(c.kind, c.cost).Err(); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
