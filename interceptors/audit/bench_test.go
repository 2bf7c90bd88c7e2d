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
			l := open(b, audit.Config{Key: key, Dir: filepath.Join(b.TempDir(), "audit")})
			b.ReportAllocs()
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range appenders {
				wg.Go(func() {
					r := record("01JABCDEFGHJKMNPQRSTVWXYZ0")
					for n.Add(1) <= int64(b.N) {
						if err := l.Append(b.Context(), r, audit.Required); err != nil {
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

// BenchmarkRead is the time of a whole log of 50,000 records.
func BenchmarkRead(b *testing.B) {
	const records = 50_000
	dir := filepath.Join(b.TempDir(), "audit")
	l := open(b, audit.Config{Key: key, Dir: dir, Queue: records})
	for i := range records {
		if err := l.Enqueue(call(i)); err != nil {
			b.Fatal(err)
		}
	}
	closed(b, l)
	for name, read := range map[string]func(){
		"Open":   func() { closed(b, open(b, audit.Config{Key: key, Dir: dir})) },
		"Verify": func() { verify(b, dir) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				read()
			}
			b.ReportMetric(float64(records*b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
