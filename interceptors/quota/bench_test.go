package quota_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/interceptors/quota"
)

var generous = quota.Limits{
	RequestsPerSecond: 1e9, RequestBurst: 1e9, RowsPerSecond: 1e12, RowBurst: 1e12, MaxRowsPerRequest: 1e12, MaxStreams: 1e6,
}

func BenchmarkReserve(b *testing.B) {
	for _, callers := range []int{1, 1_000, 50_000} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := quota.New(quota.Config{})
			names := make([]string, callers)
			for i := range names {
				names[i] = fmt.Sprintf("spiffe://sallyport.test/clinic/workload-%d", i)
				if _, err := l.Reserve(names[i], "triage-reader", generous, 1); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			var start atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for i := start.Add(7919); pb.Next(); i++ {
					if _, err := l.Reserve(names[i%int64(callers)], "triage-reader", generous, 16); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func BenchmarkReserveRefused(b *testing.B) {
	l := quota.New(quota.Config{Now: newClock().Now})
	for range 5 {
		if _, err := l.Reserve("a", "role", typical, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Reserve("a", "role", typical, 1); err == nil {
			b.Fatal("accepted")
		}
	}
}
