package grow

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sallyport/sallyport/bench/target"
)

// Settings say how far and how long.
type Settings struct {
	Rows, Streams, Callers, Models, Rules []int
	// Budget is how long one figure is measured.
	Budget time.Duration
}

// Full is the goal of issue 5; Short sees that everything works; Moment is for tests.
var (
	Moment = Settings{
		Rows: []int{1, 10}, Streams: []int{1, 10}, Callers: []int{1, 10}, Models: []int{1, 4}, Rules: []int{10, 20},
		Budget: time.Millisecond,
	}
	Full = Settings{
		Rows:    []int{1, 10, 100, 1_000, 10_000, 100_000},
		Streams: []int{1, 10, 100, 1_000, 10_000},
		Callers: []int{1, 10, 100, 1_000, 10_000, 100_000},
		Models:  []int{1, 10, 100, 1_000},
		Rules:   []int{10, 100, 1_000, 10_000, 100_000},
		Budget:  time.Second,
	}
	Short = Settings{
		Rows: []int{1, 100, 10_000}, Streams: []int{1, 10, 100}, Callers: []int{1, 100, 1_000},
		Models: []int{1, 10, 30}, Rules: []int{10, 100, 1_000}, Budget: 50 * time.Millisecond,
	}
)

// grower is a run with what it needs.
type grower struct {
	Settings
	site     *target.Site
	progress io.Writer
}

// Run measures every series.
func Run(ctx context.Context, site *target.Site, set Settings, progress io.Writer) ([]*Series, error) {
	g := &grower{Settings: set, site: site, progress: progress}
	var all []*Series
	for _, measure := range []func(context.Context) (*Series, error){g.rows, g.streams, g.callers, g.models, g.rules} {
		s, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintln(progress, s.Markdown())
		all = append(all, s)
	}
	return all, nil
}
