//go:build redis

package redisstore_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

// tally is what the scripts should keep of an account: a bucket of requests, which
// is not refilled since the clock stands, and a day's rows.
type tally struct{ requests, used int64 }

// step is an exchange or a word about streams, with the answer.
type step struct {
	back, need, want, rows int64
	replica                int // of Places, whose places are need
}

type outcome struct {
	passed      bool
	taken, left int64
	rowsLeft    int64
}

const (
	linearBurst = 20
	linearRows  = 60
)

var linearLimits = quota.Limits{
	RequestsPerSecond: 1, RequestBurst: linearBurst, RowsPerSecond: 1, RowBurst: 1e6,
	MaxStreams: 4, Day: quota.Budget{Rows: linearRows},
}

// exchangeModel says what one exchange after the other would do.
var exchangeModel = porcupine.Model{
	Init: func() any { return tally{requests: linearBurst} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(tally), input.(step), output.(outcome)
		s.requests = min(linearBurst, s.requests+in.back)
		want := outcome{passed: s.requests >= in.need && linearRows-s.used >= in.rows}
		if want.passed {
			want.taken = min(in.want, s.requests-in.need)
			s.requests -= in.need + want.taken
			s.used += in.rows
		}
		want.left, want.rowsLeft = s.requests, linearRows-s.used
		return out == want, s
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

// placesModel says the same of streams: what each replica has.
var placesModel = porcupine.Model{
	Init: func() any { return [3]int64{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.([3]int64), input.(step), output.(outcome)
		total := in.need - s[in.replica] + s[0] + s[1] + s[2]
		passed := in.need <= s[in.replica] || total <= linearLimits.MaxStreams
		if passed {
			s[in.replica] = in.need
		}
		return out.passed == passed, s
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

// history has 3 replicas with 4 workers each do what one makes up, and returns what
// they did and saw.
func history(t *testing.T, address string, seed uint64, do func(*redisstore.Store, *rand.Rand, int) (step, outcome)) []porcupine.Operation {
	const replicas, workers, each = 3, 4, 12
	began := time.Now()
	c := newClock("2030-05-15T12:00:00Z")
	var mu sync.Mutex
	var ops []porcupine.Operation
	var wg sync.WaitGroup
	for r := range replicas {
		s := open(t, redisstore.Config{Now: c.Now, Replica: fmt.Sprint(r)}, address)
		for w := range workers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(r*workers+w)))
				for range each {
					call := time.Since(began).Nanoseconds()
					in, out := do(s, random, r)
					op := porcupine.Operation{ClientId: r*workers + w, Input: in, Call: call, Output: out, Return: time.Since(began).Nanoseconds()}
					mu.Lock()
					ops = append(ops, op)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return ops
}

// What replicas see of the scripts at once is what they would see one after the
// other.
func TestScriptsAreLinearizable(t *testing.T) {
	server := redistest.Start(t)
	for seed := range uint64(5) {
		of := quota.Account{Caller: fmt.Sprint("linear", seed)}
		ops := history(t, server.Address, seed, func(s *redisstore.Store, r *rand.Rand, _ int) (step, outcome) {
			in := step{back: r.Int64N(3), need: r.Int64N(5), want: r.Int64N(4), rows: r.Int64N(4)}
			a := exchange(t, s, quota.Exchange{
				Account: of, Limits: linearLimits,
				Return: quota.Amounts{quota.KindRequests: in.back},
				Need:   quota.Amounts{quota.KindRequests: in.need, quota.KindDayRows: in.rows},
				Want:   quota.Amounts{quota.KindRequests: in.want},
			})
			return in, outcome{passed: a.Passed, taken: a.Taken[0], left: int64(a.Left[0]), rowsLeft: int64(a.Left[quota.KindDayRows])}
		})
		check(t, exchangeModel, ops)
		places := history(t, server.Address, seed, func(s *redisstore.Store, r *rand.Rand, replica int) (step, outcome) {
			in := step{need: r.Int64N(4), replica: replica}
			taken, err := s.Places(t.Context(), of, in.need, linearLimits.MaxStreams)
			if err != nil {
				t.Error(err)
			}
			return in, outcome{passed: taken}
		})
		check(t, placesModel, places)
	}
}

func check(t *testing.T, m porcupine.Model, ops []porcupine.Operation) {
	t.Helper()
	passed := 0
	for _, op := range ops {
		if op.Output.(outcome).passed {
			passed++
		}
	}
	if passed == 0 || passed == len(ops) {
		t.Errorf("%d of %d passed; the test tests nothing", passed, len(ops))
	}
	if !porcupine.CheckOperations(m, ops) {
		t.Errorf("%d operations are not linearizable", len(ops))
	}
}
