package grow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/report"
	"github.com/sallyport/sallyport/bench/target"
	"github.com/sallyport/sallyport/bench/watch"
	"github.com/sallyport/sallyport/examples"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// with starts a server, dials it, and does something with both. No answer waits for
// the disk, whose whims are larger than what is looked for.
func (g *grower) with(ctx context.Context, set target.Sallyport, do func(p *target.Process, conn *grpc.ClientConn) error) error {
	set.Durability = "ASYNC"
	p, err := g.site.StartSallyport(ctx, set)
	if err != nil {
		return err
	}
	conn, err := g.site.Dial(p, 0)
	if err != nil {
		return errors.Join(err, p.Stop())
	}
	return errors.Join(do(p, conn), conn.Close(), p.Stop())
}

func caller(ctx context.Context, c load.Caller) func() error {
	return func() error { return c.Call(ctx) }
}

// rows sends batches of more and more rows, unary and on a stream.
func (g *grower) rows(ctx context.Context) (*Series, error) {
	s := &Series{
		Name:  "rows a batch",
		About: "A batch of breast-cancer (120 bytes a row), one at a time. Memory is the most that the server took.",
		Columns: []Column{
			{"unary call", Linear, seconds}, {"batch on a stream", Linear, seconds},
			{"server CPU a call", Linear, seconds}, {"peak memory", Linear, report.Bytes},
		},
	}
	models := filepath.Join(g.site.Dir, "models-of-many-rows")
	manifest := fmt.Sprintf("max_rows: %d\n", g.Rows[len(g.Rows)-1])
	if err := addModels(models, target.BreastCancer, "2", []string{target.BreastCancer}, manifest); err != nil {
		return nil, err
	}
	for _, n := range g.Rows {
		// A server each, so that memory is that of these batches.
		err := g.with(ctx, target.Sallyport{Models: models, Bounds: "max_message_bytes: 67108864"}, func(p *target.Process, conn *grpc.ClientConn) error {
			r, err := target.NewRequest(target.BreastCancer, n)
			if err != nil {
				return err
			}
			large := grpc.MaxCallRecvMsgSize(64 << 20)
			unary := target.Unary(conn, r.Unary, large)
			if err := unary.Call(ctx); err != nil { // the first opens the connection
				return err
			}
			before, err := p.Usage()
			if err != nil {
				return err
			}
			calls := 0
			took, err := timed(g.Budget, func() error { calls++; return unary.Call(ctx) })
			if err != nil {
				return err
			}
			after, err := p.Usage()
			if err != nil {
				return err
			}
			stream, err := target.OpenStream(ctx, conn, r.Open, r.Batch, 1, large)
			if err != nil {
				return err
			}
			defer stream.Close()
			batch, err := timed(g.Budget, caller(ctx, stream))
			if err != nil {
				return err
			}
			peak, err := p.Usage()
			s.Points = append(s.Points, Point{n, []float64{
				took, batch, max((after.CPU-before.CPU).Seconds()/float64(calls), 1e-6), float64(peak.PeakRSS),
			}})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// streams opens more and more streams, each of which answers a batch and stays.
func (g *grower) streams(ctx context.Context) (*Series, error) {
	s := &Series{
		Name: "open streams",
		About: "Streams that have answered a batch and stay open, a thousand on a connection; then a batch on one of them, " +
			"and a call, while all are open.",
		Columns: []Column{
			{"to open one", Flat, seconds}, {"batch on one of them", Flat, seconds}, {"unary call", Flat, seconds},
			{"memory", Linear, report.Bytes}, {"goroutines", Linear, report.Count},
		},
	}
	r, err := target.NewRequest(target.Digits, 1)
	if err != nil {
		return nil, err
	}
	for _, n := range g.Streams {
		err := g.with(ctx, target.Sallyport{Bounds: "max_concurrent_rpcs: 1001"}, func(p *target.Process, conn *grpc.ClientConn) error {
			point, err := g.open(ctx, p, conn, r, n)
			s.Points = append(s.Points, point)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%d streams: %w", n, err)
		}
	}
	return s, nil
}

func (g *grower) open(ctx context.Context, p *target.Process, conn *grpc.ClientConn, r *target.Request, n int) (_ Point, err error) {
	const onOne = 1000
	unary := target.Unary(conn, r.Unary)
	if _, err := timed(g.Budget/4, caller(ctx, unary)); err != nil { // until it is warm
		return Point{}, err
	}
	var streams []*target.Stream
	var conns []*grpc.ClientConn
	defer func() {
		for _, s := range streams {
			s.Close()
		}
		for _, c := range conns {
			err = errors.Join(err, c.Close())
		}
	}()
	start := time.Now()
	at := conn
	for i := range n {
		if i > 0 && i%onOne == 0 {
			if at, err = g.site.Dial(p, 0); err != nil {
				return Point{}, err
			}
			conns = append(conns, at)
		}
		s, err := target.OpenStream(ctx, at, r.Open, r.Batch, 1)
		if err != nil {
			return Point{}, fmt.Errorf("stream %d: %w", i, err)
		}
		streams = append(streams, s)
		if err := s.Call(ctx); err != nil {
			return Point{}, fmt.Errorf("stream %d: %w", i, err)
		}
	}
	each := time.Since(start).Seconds() / float64(n)
	usage, err := p.Usage()
	if err != nil {
		return Point{}, err
	}
	metrics, err := watch.Metrics(ctx, p.Admin)
	if err != nil {
		return Point{}, err
	}
	batch, err := timed(g.Budget/2, caller(ctx, streams[n/2]))
	if err != nil {
		return Point{}, err
	}
	call, err := timed(g.Budget/2, caller(ctx, unary))
	return Point{n, []float64{each, batch, call, float64(usage.RSS), metrics["go_goroutines"]}}, err
}

// models serves more and more models.
func (g *grower) models(ctx context.Context) (*Series, error) {
	s := &Series{
		Name:    "models",
		About:   "Copies of breast-cancer version 1, a kilobyte each. The call is to one in the middle.",
		Columns: []Column{{"start", Linear, seconds}, {"unary call", Flat, seconds}, {"memory", Linear, report.Bytes}},
	}
	for _, n := range g.Models {
		models := filepath.Join(g.site.Dir, fmt.Sprintf("models-%d", n))
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("bench-%d", i)
		}
		if err := addModels(models, target.BreastCancer, "1", names, ""); err != nil {
			return nil, err
		}
		p, err := g.started(ctx, target.Sallyport{Models: models}, names[n/2])
		if err != nil {
			return nil, fmt.Errorf("%d models: %w", n, err)
		}
		s.Points = append(s.Points, Point{n, p})
	}
	return s, nil
}

// rules has a policy with more and more rules.
func (g *grower) rules(ctx context.Context) (*Series, error) {
	s := &Series{
		Name:  "policy rules",
		About: "Roles of two rules and a binding each. The decision is of the policy alone, in process; start, call and memory are the server's.",
		Columns: []Column{
			{"start", Linear, seconds}, {"unary call", Flat, seconds}, {"memory", Linear, report.Bytes}, {"decision", Flat, seconds},
		},
	}
	for _, n := range g.Rules {
		text := target.PolicyOf(n / 2)
		point, err := g.started(ctx, target.Sallyport{Policy: text}, target.Digits)
		if err != nil {
			return nil, fmt.Errorf("%d rules: %w", n, err)
		}
		parsed, err := policy.Parse([]byte(text), "policy.yaml")
		if err != nil {
			return nil, err
		}
		index, err := policy.Compile(parsed)
		if err != nil {
			return nil, err
		}
		decision, err := looked(g.Budget/2, func(int) error { return decide(index, target.Caller(0), target.Digits) })
		if err != nil {
			return nil, err
		}
		s.Points = append(s.Points, Point{n, append(point, decision)})
	}
	return s, nil
}

// started is how long a server takes to start, how long a call to a model takes,
// and the memory of the server then.
func (g *grower) started(ctx context.Context, set target.Sallyport, model string) (values []float64, err error) {
	start := time.Now()
	err = g.with(ctx, set, func(p *target.Process, conn *grpc.ClientConn) error {
		took := time.Since(start).Seconds()
		r, err := requestOf(model)
		if err != nil {
			return err
		}
		call, err := timed(g.Budget, caller(ctx, target.Unary(conn, r.Unary)))
		if err != nil {
			return err
		}
		usage, err := p.Usage()
		values = []float64{took, call, float64(usage.RSS)}
		return err
	})
	return values, err
}

// addModels makes a repository of copies of an example.
func addModels(dir, model, version string, names []string, manifest string) error {
	artefact, err := fs.ReadFile(examples.FS, "models/"+model+"/"+version+"/model.onnx")
	if err != nil {
		return err
	}
	for _, name := range names {
		to := filepath.Join(dir, name, version)
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, "model.onnx"), artefact, 0o600); err != nil {
			return err
		}
		if manifest == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name, "model.yaml"), []byte(manifest), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// requestOf is a request of an example, or of a copy of breast-cancer.
func requestOf(model string) (*target.Request, error) {
	if model == target.Digits {
		return target.NewRequest(model, 1)
	}
	r, err := target.NewRequest(target.BreastCancer, 1)
	if err != nil {
		return nil, err
	}
	return r.To(model)
}
