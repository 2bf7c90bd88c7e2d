package watch_test

import (
	"math"
	"testing"
	"time"

	"github.com/sallyport/sallyport/bench/process"
	"github.com/sallyport/sallyport/bench/watch"
)

func TestTrend(t *testing.T) {
	var leaks, settles watch.Samples
	for i := range 100 {
		at := time.Duration(i) * time.Second
		wave := uint64(1e6 * (1 + math.Sin(float64(i)))) // of the garbage collector
		leaks = append(leaks, watch.Sample{At: at, Usage: process.Usage{RSS: 100e6 + wave + uint64(i)*200e3}})
		settles = append(settles, watch.Sample{At: at, Usage: process.Usage{RSS: 100e6 + wave - uint64(50e6*math.Exp(-float64(i)/5))}})
	}
	if got := leaks.Trend(0.25, watch.RSS).Growth(); got < 0.1 || got > 0.16 {
		t.Errorf("15 of 105 MB leaked: growth %.3f", got)
	}
	if got := settles.Trend(0.25, watch.RSS).Growth(); math.Abs(got) > 0.02 {
		t.Errorf("grew only at first: growth %.3f", got)
	}
}
