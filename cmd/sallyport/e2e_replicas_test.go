//go:build redis

package main_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

const (
	replicaRows = 200
	policyRows  = `
roles:
  - name: everything
    rules: [{actions: [PREDICT, PREDICT_STREAM, DESCRIBE], models: ["*"]}]
    limits:
      requests_per_second: 1e6
      rows_per_second: 1e9
      max_streams: 64
      budgets: [{period: MONTH, rows: 200, bytes: 1000000000, model_time: 3600s}]
bindings:
  - {role: everything, callers: ["spiffe://sallyport.test/clinic/*"]}
`
)

// Three servers share a month's budget through one Redis: whatever connections a
// caller has to them, together they run what the budget says and no row more, the
// death of one of them and a restart of Redis included.
func TestReplicasShareABudget(t *testing.T) {
	redis := redistest.Start(t, "--requirepass", "open sesame")
	var servers []*server
	for range 3 {
		dir := newSite(t, fmt.Sprintf("quota:\n  redis: {addresses: [%q], timeout: 1s, password: {file: redis.pass}}\n  lease: {duration: 0.2s}\n", redis.Address))
		write(t, dir+"/redis.pass", "open sesame\n")
		write(t, dir+"/policy.yaml", policyRows)
		servers = append(servers, startServe(t, dir))
	}
	var ran atomic.Int64
	spend := func(upTo int64, of ...*server) {
		var wg sync.WaitGroup
		for _, s := range of {
			for range 2 { // connections
				c := s.as(t, "clinic")
				wg.Go(func() {
					for ran.Load() < upTo {
						_, err := c.Predict(t.Context(), &inferencev1.PredictRequest{Model: breastCancer, Inputs: measurements(3)})
						switch {
						case err == nil:
							ran.Add(3)
						case status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "budget"):
							return
						case status.Code(err) == codes.Unavailable: // Redis restarts
							time.Sleep(10 * time.Millisecond)
						default:
							t.Error(err)
							return
						}
					}
				})
			}
		}
		wg.Wait()
	}
	spend(60, servers...)
	redis.Restart()
	spend(120, servers...)
	servers[2].kill() // with what it holds
	spend(1e9, servers[:2]...)
	const held = replicaRows / 20 // a lease, lost with the killed one, or with Redis' connections
	if n := ran.Load(); n > replicaRows || n < replicaRows-4*held-3 {
		t.Errorf("%d rows ran of a budget of %d", n, replicaRows)
	}
	got := quotaAccounts(t, servers[0])
	for caller, limits := range got {
		if left := limits["month-rows"][1]; left > 2 {
			t.Errorf("%s has %d rows left after it was refused 3", caller, left)
		}
	}
	if len(got) != 1 {
		t.Errorf("%v", got)
	}
	if ready := readyz(t, servers[0]); !strings.Contains(ready, "quota: ok: store answers\n") {
		t.Errorf("/readyz:\n%s", ready)
	}

	// What the operator sees when it goes, and when it is back.
	redis.Hang()
	c := servers[0].as(t, "clinic")
	eventually(t, func() error {
		_, _ = c.predict(t.Context(), breastCancer)
		if ready := readyz(t, servers[0]); !strings.Contains(ready, "quota: ok: store away since ") {
			return fmt.Errorf("/readyz: %s", ready)
		}
		return nil
	})
	if servers[0].metrics(t).value("sallyport_quota_store_away") != 1 {
		t.Error("sallyport_quota_store_away is not 1")
	}
	redis.Resume()
	eventually(t, func() error {
		if ready := readyz(t, servers[0]); !strings.Contains(ready, "quota: ok: store answers\n") {
			return fmt.Errorf("/readyz: %s", ready)
		}
		return nil
	})
	if n := strings.Count(servers[0].stderr.String(), "the store of quotas answers again"); n == 0 {
		t.Error("the log does not say that the store is back")
	}
	events := 0
	for _, rec := range servers[0].records(t) {
		if strings.Contains(rec.GetDetail(), "the store of quotas") {
			events++
		}
	}
	if events == 0 {
		t.Error("the audit log has no event of it")
	}
}
