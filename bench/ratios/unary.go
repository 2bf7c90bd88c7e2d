package ratios

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/target"
)

// sizes of a request of the digits: 64 numbers a row, so that 4096 rows are a
// tensor of 1 MiB.
var sizes = []struct {
	name string
	rows int
}{{"1 row", 1}, {"64 rows", 64}, {"1 MiB", 4096}}

// unary compares calls of three sizes, one, 16 and 64 at once.
func (b *bench) unary(ctx context.Context) (cases []Case, _ error) {
	for _, size := range sizes {
		r, err := target.NewRequest(target.Digits, size.rows)
		if err != nil {
			return nil, err
		}
		if err := b.same(ctx, r); err != nil {
			return nil, err
		}
		for _, callers := range []int{1, 16, 64} {
			contestants := []compare.Contestant{b.calls(nameBare, b.bare, r), b.calls(nameSallyport, b.sallyport, r)}
			if b.inMemory != nil {
				contestants = append(contestants, b.calls(nameInMemory, b.inMemory, r))
			}
			c, err := b.compare(ctx, Case{Name: "unary, " + size.name, Rows: size.rows, Bytes: len(r.Unary), Callers: callers}, contestants...)
			if err != nil {
				return nil, err
			}
			cases = append(cases, c)
		}
	}
	return cases, nil
}

// latency compares calls of one row that come at a fixed rate: the same to both,
// a quarter and a half of what the bare server can answer of 64 at once.
func (b *bench) latency(ctx context.Context, unary []Case) (cases []Case, _ error) {
	r, err := target.NewRequest(target.Digits, 1)
	if err != nil {
		return nil, err
	}
	capacity := 0.0
	for _, c := range unary {
		if c.Rows == 1 {
			capacity = max(capacity, c.Measured[0].Total().Rate())
		}
	}
	for _, share := range []float64{0.25, 0.5} {
		rate := capacity * share
		c, err := b.compare(ctx, Case{Name: fmt.Sprintf("1 row at %.0f calls/s", rate), Rows: 1, Bytes: len(r.Unary), Rate: rate},
			b.calls(nameBare, b.bare, r), b.calls(nameSallyport, b.sallyport, r))
		if err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// streams compares batches on one and on 16 streams whose windows are full.
func (b *bench) streams(ctx context.Context) (cases []Case, _ error) {
	for _, size := range sizes[:2] {
		r, err := target.NewRequest(target.Digits, size.rows)
		if err != nil {
			return nil, err
		}
		for _, streams := range []int{1, 16} {
			c, err := b.compareStreams(ctx, r, Case{Name: "stream, " + size.name, Rows: size.rows, Bytes: len(r.Batch), Callers: streams})
			if err != nil {
				return nil, err
			}
			cases = append(cases, c)
		}
	}
	return cases, nil
}

func (b *bench) compareStreams(ctx context.Context, r *target.Request, c Case) (Case, error) {
	bare, end := b.open(ctx, nameBare, b.bare, r)
	defer end()
	sallyport, end := b.open(ctx, nameSallyport, b.sallyport, r)
	defer end()
	return b.compare(ctx, c, bare, sallyport)
}
