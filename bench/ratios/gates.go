package ratios

import (
	"context"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/target"
)

// gates compares what the durability of records costs, and a policy, as far as
// the server can be told to do less. It cannot be told to leave a gate out: for
// that there is BenchmarkGates.
func (b *bench) gates(ctx context.Context, start func(*target.Process, error) (*target.Process, error)) (cases []Case, err error) {
	r, err := target.NewRequest(target.Digits, 1)
	if err != nil {
		return nil, err
	}
	contestants := []compare.Contestant{
		b.calls(nameBare, b.bare, r),
		b.calls("all, records REQUIRED on disk", b.sallyport, r),
	}
	add := func(name string, set target.Sallyport) error {
		p, err := start(b.site.StartSallyport(ctx, set))
		if err != nil {
			return err
		}
		contestants = append(contestants, b.calls(name, p, r))
		return nil
	}
	if b.inMemory != nil {
		contestants = append(contestants, b.calls("records REQUIRED in memory", b.inMemory, r))
	}
	for _, other := range []struct {
		name string
		set  target.Sallyport
	}{
		{"records WRITTEN", target.Sallyport{Durability: "WRITTEN", Runtime: patient}},
		{"records ASYNC", target.Sallyport{Durability: "ASYNC", Runtime: patient}},
		{"records ASYNC, a policy of one role", target.Sallyport{Durability: "ASYNC", Policy: target.PolicyOf(1), Runtime: patient}},
	} {
		if err := add(other.name, other.set); err != nil {
			return nil, err
		}
	}
	for _, callers := range []int{1, 16, 64} {
		c, err := b.compare(ctx, Case{Name: "gates, 1 row", Rows: 1, Bytes: len(r.Unary), Callers: callers}, contestants...)
		if err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	return cases, nil
}
