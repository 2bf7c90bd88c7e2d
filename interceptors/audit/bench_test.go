package audit_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// BenchmarkAppend is the time of one record when so many append at once.
func BenchmarkAppend(b *testing.B) {
	for _, appenders := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("appenders=%d", appenders), func(b *testing.B) {
			l := open(b, audit.Config{Dir: filepath.Join(b.TempDir(), "audit")})
			b.ReportAllocs()
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range appenders {
				wg.Go(func() {
					r := record("01JABCDEFGHJKMNPQRSTVWXYZ0")
					for n.Add(1) <= int64(b.N) {
						if err := l.Append(b.Context(), r); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			s := l.Stats()
			b.ReportMetric(float64(s.Records)/float64(s.Commits), "records/commit")
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "audit")
	l := open(b, audit.Config{Dir: dir, Queue: 50_000})
	for i := range 50_000 {
		if err := l.Enqueue(call(i)); err != nil {
			b.Fatal(err)
		}
	}
	closed(b, l)
	for b.Loop() {
		verify(b, dir)
	}
	b.ReportMetric(float64(50_000*b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "audit")
	l := open(b, audit.Config{Dir: dir, Queue: 50_000})
	for i := range 50_000 {
		if err := l.Enqueue(call(i)); err != nil {
			b.Fatal(err)
		}
	}
	closed(b, l)
	for b.Loop() {
		closed(b, open(b, audit.Config{Dir: dir}))
	}
	b.ReportMetric(float64(50_000*b.N)/b.Elapsed().Seconds(), "records/s")
}
