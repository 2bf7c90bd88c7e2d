package quota_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// giver is a Store that gives all that is asked for and adds up what comes back.
type giver struct {
	during func() // called in every exchange

	mu       sync.Mutex // guards what follows
	returned quota.Amounts
}

func (g *giver) Exchange(_ context.Context, x *quota.Exchange) (quota.Answer, error) {
	if g.during != nil {
		g.during()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for k, n := range x.Return {
		g.returned[k] += n
	}
	a := quota.Answer{Passed: true, Taken: x.Want, Day: 1, Month: 1, DayEnds: time.Hour, MonthEnds: time.Hour}
	for k, n := range x.Limits.Most() {
		a.Left[k] = float64(n)
	}
	return a, nil
}

func (g *giver) Places(context.Context, quota.Account, int64, int64) (bool, error) {
	return true, nil
}
func (g *giver) Probe(context.Context) error { return nil }

// An account is not forgotten while the store is asked for it, though it has nothing
// then and has been idle: what its call uses would be charged to nobody.
func TestAccountInFlightIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := quota.Limits{
			RequestsPerSecond: 100, RequestBurst: 100, RowsPerSecond: 1000, RowBurst: 1000, MaxRowsPerRequest: 1000,
			Day: quota.Budget{Bytes: 1e9, ModelTime: time.Hour},
		}
		store := &giver{}
		l := quota.New(quota.Config{Store: store, MaxCallers: 1000})
		defer func() {
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		first, err := l.Acquire(t.Context(), "me", "role", &limits, quota.Cost{Rows: 1, Bytes: 10}, nil)
		if err != nil {
			t.Fatal(err)
		}
		first.Close()
		time.Sleep(5 * time.Minute) // it is long settled, and idle
		synctest.Wait()
		store.mu.Lock()
		store.returned = quota.Amounts{}
		store.mu.Unlock()
		store.during = func() {
			store.during = nil
			// Another account of the same caller, hence of the same shard, comes.
			if _, err := l.Reserve("me", "other", quota.Limits{RequestsPerSecond: 1, RequestBurst: 1, RowBurst: 1, MaxRowsPerRequest: 1}, 0); err != nil {
				t.Error(err)
			}
		}
		r, err := l.Acquire(t.Context(), "me", "role", &limits, quota.Cost{Rows: 1, Bytes: 10}, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Spend(1, 20*time.Minute)
		r.Sent(500e6)
		r.Close()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		store.mu.Lock()
		defer store.mu.Unlock()
		if got := -store.returned[quota.KindDayBytes]; got < 400e6 {
			t.Errorf("charged %d bytes of some 500 MB", got)
		}
		if got := time.Duration(-store.returned[quota.KindDayTime]) * time.Microsecond; got < 15*time.Minute {
			t.Errorf("charged %v of some 20m", got)
		}
	})
}
