package audit_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// processorTime is what the process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend is the time of one record when so many append at once, in each
// durability and, to compare, without a log: throughput, latency and processor time.
func BenchmarkAppend(b *testing.B) {
	for _, appenders := range []int{1, 16, 64} {
		for _, mode := range []struct {
			name       string
			durability audit.Durability
			none       bool
		}{{name: "none", none: true}, {name: "async", durability: audit.Async}, {name: "written", durability: audit.Written}, {name: "required", durability: audit.Required}} {
			b.Run(fmt.Sprintf("appenders=%d/%s", appenders, mode.name), func(b *testing.B) {
				l := open(b, audit.Config{Key: key, Dir: filepath.Join(b.TempDir(), "audit"), Queue: 1 << 16})
				add := func(r *auditv1.Record) error {
					for {
						err := l.Append(b.Context(), r, mode.durability)
						if err == nil || mode.durability != audit.Async || l.Err() != nil {
							return err
						}
						time.Sleep(100 * time.Microsecond) // the queue is full: as fast as the disk
					}
				}
				if mode.none {
					add = func(*auditv1.Record) error { return nil }
				}
				b.ReportAllocs()
				b.ResetTimer()
				before := processorTime(b)
				took := appendAtOnce(b, appenders, add)
				elapsed := b.Elapsed()
				closed(b, l)
				b.StopTimer()
				used := processorTime(b) - before
				s := l.Stats()
				slices.Sort(took)
				b.ReportMetric(float64(len(took))/elapsed.Seconds(), "records/s")
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "µs-median")
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "µs-p99")
				b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(len(took)), "µs-cpu/record")
				if s.Commits > 0 {
					b.ReportMetric(float64(s.Records)/float64(s.Commits), "records/commit")
				}
			})
		}
	}
}

// appendAtOnce appends b.N records and returns how long each took.
func appendAtOnce(b *testing.B, appenders int, add func(*auditv1.Record) error) []time.Duration {
	b.Helper()
	var n atomic.Int64
	var wg sync.WaitGroup
	took := make([]time.Duration, b.N)
	for range appenders {
		wg.Go(func() {
			r := record("01JABCDEFGHJKMNPQRSTVWXYZ0")
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				start := time.Now()
				if err := add(r); err != nil {
					b.Error(err)
					return
				}
				took[i-1] = time.Since(start)
			}
		})
	}
	wg.Wait()
	return took
}

// findEnv is how many records BenchmarkFind searches, for example 10000000.
const findEnv = "SALLYPORT_AUDIT_FIND"

// newLargeLog is a log of many records at rest.
func newLargeLog(b *testing.B, records int) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "audit")
	l := open(b, audit.Config{Key: key, Dir: dir, Queue: 1 << 16})
	r := record("")
	for i := range records {
		r.CallId = call(i).GetCallId()
		for l.Append(b.Context(), r, audit.Async) != nil {
			if err := l.Err(); err != nil {
				b.Fatal(err)
			}
			time.Sleep(time.Millisecond) // the queue is full
		}
	}
	closed(b, l)
	return dir
}

// BenchmarkFind is the time to find one call among many, and to prove it.
func BenchmarkFind(b *testing.B) {
	records := 100_000
	if env := os.Getenv(findEnv); env != "" {
		n, err := strconv.Atoi(env)
		if err != nil {
			b.Fatal(err)
		}
		records = n
	}
	dir := newLargeLog(b, records)
	run := func(name string, from, to int, do func(id string) error) {
		b.Run(fmt.Sprintf("records=%d/%s", records, name), func(b *testing.B) {
			for b.Loop() {
				if err := do(call(from + rand.N(to-from)).GetCallId()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1e3/float64(b.N), "ms")
		})
	}
	find := func(id string) error {
		_, err := view(dir).Find(b.Context(), id)
		return err
	}
	run("find", 0, records, find)
	run("find-in-first", 0, records/10, find)
	run("prove", 0, records, func(id string) error {
		_, err := audit.Prove(dir, id, nil)
		return err
	})
}

// BenchmarkRead is the time of a whole log.
func BenchmarkRead(b *testing.B) {
	const records = 200_000
	dir := newLargeLog(b, records)
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
