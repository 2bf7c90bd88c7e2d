//go:build redis

package redisstore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

// Most calls cost no round trip, whether they pass or are refused.
func TestRoundTrips(t *testing.T) {
	wide := quota.Limits{
		RequestsPerSecond: 1e6, RequestBurst: 100_000, RowsPerSecond: 1e8, RowBurst: 10_000_000, MaxRowsPerRequest: 1000,
		Day: quota.Budget{Rows: 1e12, Bytes: 1e14, ModelTime: 1000 * time.Hour},
	}
	middling := wide
	middling.RequestsPerSecond, middling.RequestBurst = 1e5, 2000
	tight := wide
	tight.RequestsPerSecond, tight.RequestBurst = 1, 100
	server := redistest.Start(t)
	tests := []struct {
		name        string
		calls       int
		lease       quota.Lease
		limits      quota.Limits
		least, most float64 // for 1,000 calls
	}{
		{"leases of 5,000 requests", 20_000, quota.Lease{}, wide, 0, 10},
		{"leases of 100 requests", 5_000, quota.Lease{}, middling, 0, 60},
		{"without leases", 1_000, noLease, wide, 1000, 1100},
		{"refused calls", 20_000, quota.Lease{}, tight, 0, 20},
	}
	for _, tt := range tests {
		l := limiter(t, quota.Config{Store: open(t, redisstore.Config{}, server.Address), Lease: tt.lease})
		for range tt.calls {
			r, err := l.Acquire(t.Context(), tt.name, "role", &tt.limits, quota.Cost{Rows: 16, Bytes: 1000}, nil)
			if _, limited := errors.AsType[*quota.Exceeded](err); err != nil && !limited {
				t.Fatal(err)
			}
			r.Spend(16, 20*time.Microsecond)
			r.Sent(100)
			r.Close()
		}
		per := float64(l.Stats().RoundTrips) * 1000 / float64(tt.calls)
		t.Logf("%s: %.1f round trips for 1,000 calls", tt.name, per)
		if per < tt.least || per > tt.most {
			t.Errorf("%s: %.1f round trips for 1,000 calls, want %v to %v", tt.name, per, tt.least, tt.most)
		}
	}
}

// BenchmarkAcquire is a call that its lease covers, beside one that is a round trip.
func BenchmarkAcquire(b *testing.B) {
	server := redistest.Start(b, "--appendonly", "no")
	for name, lease := range map[string]quota.Lease{"lease": {Share: 1}, "round trip": noLease} {
		b.Run(name, func(b *testing.B) {
			l := limiter(b, quota.Config{Store: open(b, redisstore.Config{}, server.Address), Lease: lease})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Acquire(b.Context(), name, "role", &plenty, quota.Cost{Rows: 1}, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(l.Stats().RoundTrips)*1000/float64(b.N), "trips/1000")
		})
	}
}
