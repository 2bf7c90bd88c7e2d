// Package watch samples what a server takes while it works, and tells whether
// that grows.
package watch

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"gonum.org/v1/gonum/stat"

	"github.com/sallyport/sallyport/bench/process"
	"github.com/sallyport/sallyport/bench/target"
)

// Sample is what a server took at one moment.
type Sample struct {
	// At is since the beginning.
	At time.Duration
	process.Usage
	// Goroutines and Heap, the bytes of the heap in use, are from its metrics.
	Goroutines, Heap float64
}

// Samples are in the order of time.
type Samples []Sample

// Watcher samples until it is stopped.
type Watcher struct {
	stop    context.CancelFunc
	working sync.WaitGroup
	samples Samples
	err     error
}

// Start samples a server again and again.
func Start(ctx context.Context, p *target.Process, interval time.Duration) *Watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watcher{stop: cancel}
	begin := time.Now()
	w.working.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			s, err := sample(ctx, p)
			if err != nil && ctx.Err() == nil {
				w.err = err
				return
			}
			if err == nil {
				s.At = time.Since(begin)
				w.samples = append(w.samples, s)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return w
}

// Stop ends it and returns what it saw. The error is that the server could not be
// sampled any more.
func (w *Watcher) Stop() (Samples, error) {
	w.stop()
	w.working.Wait()
	return w.samples, w.err
}

func sample(ctx context.Context, p *target.Process) (s Sample, err error) {
	if s.Usage, err = p.Usage(); err != nil {
		return s, err
	}
	values, err := Metrics(ctx, p.Admin)
	s.Goroutines, s.Heap = values["go_goroutines"], values["go_memstats_heap_inuse_bytes"]
	return s, err
}

// Metrics are those metrics of a server that have no labels.
func Metrics(ctx context.Context, admin string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", response.Status)
	}
	values := map[string]float64{}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, text, found := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(text, 64); found && err == nil {
			values[name] = v
		}
	}
	return values, lines.Err()
}

// Trend is how a figure went.
type Trend struct {
	// First and Last are what a line through all samples has at their ends, Max the
	// most of any.
	First, Last, Max float64
}

// Growth is how much it grew, as a part of what it was at first.
func (t Trend) Growth() float64 { return (t.Last - t.First) / max(t.First, 1) }

// Trend fits a line to a figure of the samples after the first part of them, in
// which a server warms up.
func (s Samples) Trend(part float64, figure func(Sample) float64) Trend {
	s = s[int(part*float64(len(s))):]
	if len(s) == 0 {
		return Trend{}
	}
	var t Trend
	x, y := make([]float64, len(s)), make([]float64, len(s))
	for i := range s {
		x[i], y[i] = s[i].At.Seconds(), figure(s[i])
		t.Max = max(t.Max, y[i])
	}
	if len(s) < 3 {
		t.First, t.Last = y[0], y[len(y)-1]
		return t
	}
	alpha, beta := stat.LinearRegression(x, y, nil, false)
	t.First, t.Last = alpha+beta*x[0], alpha+beta*x[len(x)-1]
	return t
}

// Figures of a sample.
var (
	RSS         = func(s Sample) float64 { return float64(s.RSS) }
	Goroutines  = func(s Sample) float64 { return s.Goroutines }
	Descriptors = func(s Sample) float64 { return float64(s.Descriptors) }
	Threads     = func(s Sample) float64 { return float64(s.Threads) }
)
