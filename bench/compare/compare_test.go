package compare_test

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/load"
)

// contestant answers in d and uses half of that of the processor.
func contestant(name string, d time.Duration, order *[]string) compare.Contestant {
	var used atomic.Int64
	return compare.Contestant{
		Name: name,
		Caller: func(int) (load.Caller, error) {
			return load.CallerFunc(func(context.Context) error {
				time.Sleep(d)
				used.Add(int64(d / 2))
				if n := len(*order); n == 0 || (*order)[n-1] != name {
					*order = append(*order, name)
				}
				return nil
			}), nil
		},
		CPU: func() (time.Duration, error) { return time.Duration(used.Load()), nil },
	}
}

func TestRatio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		m, err := compare.Run(t.Context(), compare.Config{Rounds: 4, Callers: 1, Warmup: 100 * time.Millisecond, Duration: 10 * time.Second},
			contestant("a", 10*time.Millisecond, &order), contestant("b", 20*time.Millisecond, &order))
		if err != nil {
			t.Fatal(err)
		}
		for what, got := range map[string]struct{ got, want float64 }{
			"throughput": {compare.Ratio(&m[0], &m[1], compare.Throughput).Median, 0.5},
			"p99":        {compare.Ratio(&m[0], &m[1], compare.P99).Median, 2},
			"CPU":        {compare.Ratio(&m[0], &m[1], compare.CPU).Median, 2},
		} {
			if math.Abs(got.got-got.want) > 0.02*got.want {
				t.Errorf("%s of b is %g times that of a, want %g", what, got.got, got.want)
			}
		}
		if got := m[0].Total().CPUPerCall(); got < 4900*time.Microsecond || got > 5100*time.Microsecond {
			t.Errorf("a call of a took %v of the processor, want 5 ms", got)
		}
		// One round forwards, the next backwards.
		if got, want := len(order), 5; got != want {
			t.Errorf("turns %v: want a, b b, a a, b b, a", order)
		}
	})
}

// What is refused is no part of a comparison.
func TestAFailureIsNoFigure(t *testing.T) {
	broken := compare.Contestant{
		Name:   "broken",
		Caller: func(int) (load.Caller, error) { return load.CallerFunc(fail), nil },
		CPU:    func() (time.Duration, error) { return 0, nil },
	}
	_, err := compare.Run(t.Context(), compare.Config{Rounds: 1, Callers: 1, Duration: 10 * time.Millisecond}, broken)
	if err == nil {
		t.Error("calls that fail were compared")
	}
}

func fail(context.Context) error {
	time.Sleep(time.Millisecond)
	return errors.New("refused")
}
