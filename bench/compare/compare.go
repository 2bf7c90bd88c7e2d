// Package compare measures contestants beside each other: short slices in turn,
// over several rounds, so that what the machine does meanwhile meets all of them.
// Only ratios of slices of one round say something; each comes with its spread.
package compare

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sallyport/sallyport/bench/load"
)

// Contestant is one of those compared.
type Contestant struct {
	Name string
	// Caller makes caller i; it is kept for all rounds.
	Caller func(i int) (load.Caller, error)
	// CPU is the processor time that the server has used since its start.
	CPU func() (time.Duration, error)
}

// Config says how they are compared.
type Config struct {
	// Rounds is how many slices each contestant has.
	Rounds int
	// Callers, Rate, Warmup and Duration are those of one slice; see load.Config.
	Callers          int
	Rate             float64
	Warmup, Duration time.Duration
}

// Slice is what came of one.
type Slice struct {
	*load.Result
	// CPU is what the server used while calls counted.
	CPU time.Duration
}

// Measured is what came of a contestant, a slice a round.
type Measured struct {
	Name   string
	Slices []Slice
}

// Run compares. A call that fails is an error: what is refused costs something
// else than what is answered.
func Run(ctx context.Context, cfg Config, contestants ...Contestant) ([]Measured, error) {
	measured := make([]Measured, len(contestants))
	callers := make([][]load.Caller, len(contestants))
	for i, c := range contestants {
		measured[i].Name = c.Name
		for n := range cfg.Callers {
			caller, err := c.Caller(n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.Name, err)
			}
			callers[i] = append(callers[i], caller)
		}
	}
	for round := range cfg.Rounds {
		for i := range contestants {
			if round%2 == 1 {
				i = len(contestants) - 1 - i // who is always after another would inherit its heat
			}
			s, err := slice(ctx, cfg, contestants[i], callers[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", contestants[i].Name, err)
			}
			measured[i].Slices = append(measured[i].Slices, s)
		}
	}
	return measured, nil
}

// longest is how long a slice may become that has no answer.
const longest = 10 * time.Second

func slice(ctx context.Context, cfg Config, c Contestant, callers []load.Caller) (s Slice, err error) {
	var before, after time.Duration
	var errs [2]error
	var failed error
	s.Result, err = load.Run(ctx, load.Config{
		Callers: cfg.Callers, Rate: cfg.Rate, Warmup: cfg.Warmup, Duration: cfg.Duration,
		Begin: func() { before, errs[0] = c.CPU() },
		End:   func() { after, errs[1] = c.CPU() },
		Kind:  func(err error) string { return err.Error() },
	}, func(i int) (load.Caller, error) { return callers[i], nil })
	if err != nil {
		return Slice{}, err
	}
	if kinds := s.Kinds(); len(kinds) > 0 {
		failed = fmt.Errorf("%d of %d calls failed: %s", s.AllErrors(), s.Calls+s.AllErrors(), kinds[0])
	}
	if failed == nil && s.Calls == 0 && cfg.Duration < longest {
		cfg.Duration *= 4 // a slice that is only to see that everything works
		return slice(ctx, cfg, c, callers)
	}
	if failed == nil && s.Calls == 0 {
		failed = fmt.Errorf("no call was answered within %v", cfg.Duration)
	}
	s.CPU = after - before
	return s, errors.Join(append(errs[:], failed)...)
}

// Total is all slices as one.
func (m *Measured) Total() Slice {
	sum := Slice{Result: &load.Result{}}
	for _, s := range m.Slices {
		sum.Add(s.Result)
		sum.CPU += s.CPU
	}
	return sum
}

// CPUPerCall is the server's processor time for each call.
func (s Slice) CPUPerCall() time.Duration {
	return time.Duration(float64(s.CPU) / float64(max(s.Calls, 1)))
}

// Spread is a figure of several rounds.
type Spread struct{ Median, Min, Max float64 }

// String is the median and, in brackets, how far the rounds were apart; a dash if
// too little was measured.
func (s Spread) String() string {
	if math.IsNaN(s.Median) || math.IsInf(s.Max, 0) {
		return "–"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Min, s.Max)
}

// Ratio is what a figure of b is to that of a, round by round.
func Ratio(a, b *Measured, figure func(Slice) float64) Spread {
	var ratios []float64
	for i := range a.Slices {
		ratios = append(ratios, figure(b.Slices[i])/figure(a.Slices[i]))
	}
	return spreadOf(ratios)
}

func spreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{math.NaN(), math.NaN(), math.NaN()}
	}
	slices.Sort(values)
	n := len(values)
	return Spread{Median: (values[(n-1)/2] + values[n/2]) / 2, Min: values[0], Max: values[n-1]}
}

// Figures of a slice.
var (
	Throughput = func(s Slice) float64 { return s.Rate() }
	CPU        = func(s Slice) float64 { return float64(s.CPU) / float64(max(s.Calls, 1)) }
	P99        = func(s Slice) float64 { return s.Latency.Quantile(0.99).Seconds() }
	P50        = func(s Slice) float64 { return s.Latency.Quantile(0.5).Seconds() }
)
