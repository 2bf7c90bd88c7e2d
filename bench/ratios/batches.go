package ratios

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"time"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/engine"
	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/process"
	"github.com/sallyport/sallyport/bench/target"
)

// batches compares batches of 4096 rows with ONNX Runtime alone, which has them
// in the memory of this process and a run on each processor: nothing is sent,
// decoded or encrypted.
func (b *bench) batches(ctx context.Context, library string) (cases []Case, err error) {
	closeLibrary, err := engine.Open(library)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLibrary()) }()
	for _, m := range []struct{ name, version string }{
		{target.BreastCancer, "2"}, {target.Digits, "1"}, {target.TicketRouting, "1"},
	} {
		c, err := b.batch(ctx, m.name, filepath.Join(b.site.Models, m.name, m.version, "model.onnx"))
		if err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func (b *bench) batch(ctx context.Context, model, path string) (c Case, err error) {
	const rows = 4096 // the most that the examples' manifests allow
	r, err := target.NewRequest(model, rows)
	if err != nil {
		return c, err
	}
	if err := b.same(ctx, r); err != nil {
		return c, err
	}
	alone, end, err := alone(path, r)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, end()) }()
	bare := b.calls(nameBare+", unary", b.bare, r)
	bareStream, endBare := b.open(ctx, nameBare+", streams", b.bare, r)
	defer endBare()
	stream, endStream := b.open(ctx, nameSallyport+", streams", b.sallyport, r)
	defer endStream()
	// Twice as many as processors: one is run while the other is on its way.
	return b.compare(ctx, Case{Name: "batch, " + model, Rows: rows, Bytes: len(r.Batch), Callers: 2 * runtime.GOMAXPROCS(0)},
		alone, bare, b.calls(nameSallyport+", unary", b.sallyport, r), bareStream, stream)
}

// alone is ONNX Runtime in this process. Of the callers, as many run at once as
// there are processors.
func alone(path string, r *target.Request) (_ compare.Contestant, end func() error, err error) {
	m, err := engine.Load(path)
	if err != nil {
		return compare.Contestant{}, nil, err
	}
	in, err := m.Prepare(r.Inputs)
	if err != nil {
		return compare.Contestant{}, nil, errors.Join(err, m.Close())
	}
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	run := load.CallerFunc(func(context.Context) error {
		turns <- struct{}{}
		defer func() { <-turns }()
		_, err := m.Run(in)
		return err
	})
	return compare.Contestant{
			Name:   "ONNX Runtime alone",
			Caller: func(int) (load.Caller, error) { return run, nil },
			CPU: func() (time.Duration, error) {
				u, err := process.Self()
				return u.CPU, err
			},
		}, func() error {
			in.Close()
			return m.Close()
		}, nil
}
