//go:build redis

package redisstore_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

const (
	replicaCount = 3
	callerCount  = 8
)

// busy are limits that callers of a test reach.
var busy = quota.Limits{
	RequestsPerSecond: 100, RequestBurst: 100, RowsPerSecond: 1000, RowBurst: 1000, MaxRowsPerRequest: 200, MaxStreams: 4,
}

// accepted is one message that passed, between the two times.
type accepted struct {
	from, to time.Duration
	rows     int64
}

// crowd is 3 replicas and 8 callers who use all of them at once.
type crowd struct {
	server   *redistest.Server
	proxies  []*redistest.Proxy
	limiters []*quota.Limiter
	began    time.Time
	lease    quota.Lease

	mu          sync.Mutex // guards what follows
	passed      [callerCount][]accepted
	refused     int
	unavailable int
}

// newCrowd has replicas over one server, or each for itself.
func newCrowd(t *testing.T, together bool) *crowd {
	c := &crowd{began: time.Now(), lease: quota.Lease{Share: 0.1, Duration: 200 * time.Millisecond}}
	if together {
		c.server = redistest.Start(t)
	}
	for range replicaCount {
		cfg := quota.Config{Lease: c.lease, Timeout: 250 * time.Millisecond}
		if together {
			p := redistest.NewProxy(t, c.server.Address)
			c.proxies = append(c.proxies, p)
			cfg.Store = open(t, redisstore.Config{Timeout: cfg.Timeout}, p.Address)
		}
		c.limiters = append(c.limiters, limiter(t, cfg))
	}
	return c
}

// call makes calls of one caller to one replica until ctx ends.
func (c *crowd) call(ctx context.Context, caller, replica int) {
	random := rand.New(rand.NewPCG(uint64(caller), uint64(replica)))
	for ctx.Err() == nil {
		rows := random.Int64N(40)
		if random.IntN(20) == 0 {
			rows = 150 // more than a lease has
		}
		from := time.Since(c.began)
		r, err := c.limiters[replica].Acquire(ctx, fmt.Sprint("caller", caller), "role", &busy, quota.Cost{Rows: rows}, nil)
		to := time.Since(c.began)
		if err == nil && random.IntN(8) == 0 { // what did not run comes back
			r.Refund(rows)
			rows = 0
		}
		c.mu.Lock()
		var e *quota.Exceeded
		var away *quota.Unavailable
		switch {
		case err == nil:
			c.passed[caller] = append(c.passed[caller], accepted{from, to, rows})
		case errors.As(err, &e):
			c.refused++
		case errors.As(err, &away):
			c.unavailable++
		}
		c.mu.Unlock()
		// A caller that pauses a little; without it the test is about the machine.
		pause := time.NewTimer(time.Duration(random.IntN(4)) * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// run has all call until the last of the phases has ended.
func (c *crowd) run(t *testing.T, phases ...func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for caller := range callerCount {
		for replica := range replicaCount {
			wg.Go(func() { c.call(ctx, caller, replica) })
		}
	}
	for _, phase := range phases {
		phase()
		time.Sleep(700 * time.Millisecond) // how long it lasts is what it is
	}
	cancel()
	wg.Wait()
}

// overshoot is by how much a caller had more than the limit in the worst window,
// requests and rows, beside the bound of the leases. The window is taken as long
// as it can have been.
func (c *crowd) overshoot() (requests, rows float64) {
	leases := float64(replicaCount) * c.lease.Share
	for caller := range c.passed {
		got := c.passed[caller]
		slices.SortFunc(got, func(a, b accepted) int { return cmp.Compare(a.from, b.from) })
		for i := range got {
			var n, r float64
			end := got[i].to
			for _, a := range got[i:] {
				n, r, end = n+1, r+float64(a.rows), max(end, a.to)
				window := (end - got[i].from).Seconds()
				requests = max(requests, n-float64(busy.RequestBurst)*(1+leases)-busy.RequestsPerSecond*window)
				rows = max(rows, r-float64(busy.RowBurst)*(1+leases)-busy.RowsPerSecond*window)
			}
		}
	}
	return requests, rows
}

// Whatever happens to the network and the store, in no window does a caller get
// more than the limit and the leases that were out.
func TestReplicasHoldLimitsTogether(t *testing.T) {
	c := newCrowd(t, true)
	c.run(t,
		func() {},
		func() { c.proxies[0].Cut() },
		func() { c.proxies[0].Mend(); c.proxies[1].Cut(); c.proxies[2].Cut() },
		func() { c.proxies[1].Mend(); c.proxies[2].Mend() },
		func() { c.server.Restart() },
		func() { c.server.Hang() },
		func() { c.server.Resume() },
		func() {},
	)
	requests, rows := c.overshoot()
	total := 0
	for caller := range c.passed {
		total += len(c.passed[caller])
	}
	t.Logf("%d passed, %d refused, %d while the store was away", total, c.refused, c.unavailable)
	for i, l := range c.limiters {
		t.Logf("replica %d: %+v", i, l.Stats())
	}
	if requests > 0 || rows > 0 {
		t.Errorf("%v requests and %v rows more than limit and leases", requests, rows)
	}
	took := time.Since(c.began).Seconds()
	if fair := callerCount * (float64(busy.RequestBurst) + busy.RequestsPerSecond*took/2); float64(total) < fair {
		t.Errorf("only %d passed, %v would be half of what the limits allow", total, fair)
	}
	if c.refused == 0 || c.unavailable == 0 {
		t.Error("nobody reached a limit, or the store was never away; the test tests nothing")
	}
}

// The same crowd over replicas that do not share: the measure shows it.
func TestReplicasAloneDoNot(t *testing.T) {
	c := newCrowd(t, false)
	c.run(t, func() {}, func() {})
	if requests, rows := c.overshoot(); requests <= 0 && rows <= 0 {
		t.Error("3 replicas that count by themselves hold the limit of one; the measure measures nothing")
	}
}
