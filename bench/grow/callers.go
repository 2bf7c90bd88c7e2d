package grow

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/bench/report"
	"github.com/sallyport/sallyport/bench/target"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/server/schedule"
)

// callers has more and more workloads call that all have a policy, and an account
// with the quotas, in process: with the engines that the gates ask. The last
// column is a turn with all of them known to the queue of the model.
func (g *grower) callers(ctx context.Context) (*Series, error) {
	s := &Series{
		Name: "callers",
		About: "Workloads with an account each, asked for in turn: the policy's decision, the quota's reservation and a turn to run, " +
			"in process. Memory is that of all accounts.",
		Columns: []Column{
			{"decision", Flat, seconds}, {"reservation", Flat, seconds}, {"turn to run", Flat, seconds}, {"memory", Linear, report.Bytes},
		},
	}
	parsed, err := policy.Parse([]byte(target.Policy()), "policy.yaml")
	if err != nil {
		return nil, err
	}
	index, err := policy.Compile(parsed)
	if err != nil {
		return nil, err
	}
	for _, n := range g.Callers {
		p, err := g.called(ctx, index, n)
		if err != nil {
			return nil, err
		}
		s.Points = append(s.Points, p)
	}
	return s, nil
}

func (g *grower) called(ctx context.Context, index *policy.Index, n int) (Point, error) {
	ids, names := make([]spiffeid.ID, n), make([]string, n)
	for i := range ids {
		ids[i] = target.Caller(i)
		names[i] = ids[i].String()
	}
	turns, err := schedule.New(schedule.Config{Turns: runtime.GOMAXPROCS(0), Waiters: 256})
	if err != nil {
		return Point{}, err
	}
	before := heap()
	limiter := quota.New(quota.Config{})
	limits := quota.Limits{
		RequestsPerSecond: 1e9, RequestBurst: 1e9, RowsPerSecond: 1e12, RowBurst: 1e12, MaxRowsPerRequest: 1e12, MaxStreams: 1e6,
	}
	reserve := func(i int) error {
		_, err := limiter.Reserve(names[i%n], "bench", limits, 1)
		return err
	}
	turn := func(i int) error {
		t, err := turns.Acquire(ctx, schedule.Request{Caller: names[i%n]})
		if err == nil {
			t.Release()
		}
		return err
	}
	for i := range n {
		if err := reserve(i); err != nil {
			return Point{}, err
		}
		if err := turn(i); err != nil {
			return Point{}, err
		}
	}
	memory := max(heap()-before, 1)
	runtime.KeepAlive(limiter)
	// A stride that is prime to n, so that those asked for follow no order.
	const stride = 7919
	var figures []float64
	for _, operation := range []func(int) error{
		func(i int) error { return decide(index, ids[i%n], target.Digits) }, reserve, turn,
	} {
		v, err := looked(g.Budget/2, func(i int) error { return operation(i * stride) })
		if err != nil {
			return Point{}, err
		}
		figures = append(figures, v)
	}
	runtime.KeepAlive(limiter)
	return Point{n, append(figures, memory)}, nil
}

func decide(index *policy.Index, caller spiffeid.ID, model string) error {
	d := index.Decide(policy.Request{
		Caller: caller, Address: netip.AddrFrom4([4]byte{127, 0, 0, 1}), Action: policy.Predict, Model: model, Rows: 1, Time: time.Now(),
	})
	if !d.Allowed {
		return fmt.Errorf("%s is refused: %s", caller, d.Detail)
	}
	return nil
}
