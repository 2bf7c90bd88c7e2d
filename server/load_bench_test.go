package server_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/examples"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// full is a scheduler whose queue is full.
type full struct{}

func (full) Run(context.Context, batch.Request) (map[string]*model.Tensor, time.Duration, error) {
	return nil, 0, fmt.Errorf("%w: %w", model.ErrNotStarted, &batch.OverloadedError{Wait: time.Second})
}

// BenchmarkRefusal is what a call costs, client and server, that is answered by a model
// that does next to nothing, and one that is refused because too much waits.
func BenchmarkRefusal(b *testing.B) {
	for _, kind := range []string{"answered", "refused"} {
		b.Run(kind, func(b *testing.B) {
			refuse := false
			g, closeAll := openGround(b, onnxtest.Spinning(b), batch.Config{}, func(s *batch.Scheduler) inference.Scheduler {
				return either{s, &refuse}
			})
			defer closeAll()
			client, hangUp := g.dial(b, identitytest.NewSource(g.ca.SVID(b, "/a"), g.ca.Bundle()), rounds(shortRun))
			defer hangUp()
			refuse = kind == "refused"
			before := processorTime(b)
			b.SetParallelism(16)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := client.Predict(b.Context(), rounds(shortRun)); (err != nil) != refuse {
						b.Error(err)
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1e3/float64(b.N), "µs-cpu/op")
		})
	}
}

// either is a scheduler, or a full one if refuse says so.
type either struct {
	inference.Scheduler
	refuse *bool
}

func (e either) Run(ctx context.Context, r batch.Request) (map[string]*model.Tensor, time.Duration, error) {
	if *e.refuse {
		return full{}.Run(ctx, r)
	}
	return e.Scheduler.Run(ctx, r)
}

// processorTime is what the process has used.
func processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkMerging is calls of one row to the example models by so many callers at a
// time over mTLS, each run by itself and merged: what docs/decisions/0024 rests on.
func BenchmarkMerging(b *testing.B) {
	for _, m := range []struct{ name, data string }{{"breast-cancer", "breast-cancer"}, {"digits", "digits"}, {"ticket-routing", "tickets"}} {
		for _, callers := range []int{16, 64} {
			for _, kind := range []struct{ name, manifest string }{
				{"alone", ""},
				{"merged", "\nbatching: {max_rows: 64}\n"},
				{"delayed", "\nbatching: {max_rows: 64, max_delay: 0.001s}\n"},
			} {
				b.Run(fmt.Sprintf("%s/callers=%d/%s", m.name, callers, kind.name), func(b *testing.B) {
					var runs, requests atomic.Int64
					cfg := batch.Config{MaxDelay: time.Hour, Merged: func(_ string, n int, _ int64, _ error) {
						runs.Add(1)
						requests.Add(int64(n))
					}}
					g, closeAll := openGround(b, withManifests(b, kind.manifest), cfg, func(s *batch.Scheduler) inference.Scheduler { return s })
					defer closeAll()
					request := firstRow(b, m.name, m.data)
					var clients []inferencev1.PredictionServiceClient
					for i := range 4 {
						client, hangUp := g.dial(b, identitytest.NewSource(g.ca.SVID(b, fmt.Sprintf("/caller/%d", i)), g.ca.Bundle()), request)
						defer hangUp()
						clients = append(clients, client)
					}
					var n atomic.Int64
					before := processorTime(b)
					b.SetParallelism(callers / runtime.GOMAXPROCS(0))
					b.ResetTimer()
					b.RunParallel(func(pb *testing.PB) {
						client := clients[n.Add(1)%int64(len(clients))]
						for pb.Next() {
							if _, err := client.Predict(b.Context(), request); err != nil {
								b.Error(err)
							}
						}
					})
					b.StopTimer()
					b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1e3/float64(b.N), "µs-cpu/op")
					b.ReportMetric(float64(requests.Load())/float64(b.N), "merged/op")
					if runs.Load() > 0 {
						b.ReportMetric(float64(requests.Load())/float64(runs.Load()), "requests/run")
					}
				})
			}
		}
	}
}

// withManifests is the example models with more in each manifest.
func withManifests(tb testing.TB, manifest string) (dir string) {
	tb.Helper()
	dir = tb.TempDir()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	sub, err := fs.Sub(examples.FS, "models")
	must(err)
	must(os.CopyFS(dir, sub))
	files, err := filepath.Glob(dir + "/*/model.yaml")
	must(err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(err)
		must(os.WriteFile(file, append(data, manifest...), 0o600))
	}
	return dir
}

// firstRow asks an example for the first row that it is tried with.
func firstRow(tb testing.TB, name, data string) *inferencev1.PredictRequest {
	tb.Helper()
	text, err := examples.FS.ReadFile("data/" + data + "-holdout.csv")
	if err != nil {
		tb.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil {
		tb.Fatal(err)
	}
	row := rows[1][:len(rows[1])-1]
	in := &inferencev1.Tensor{Shape: []int64{1, int64(len(row))}}
	input := "features"
	if name == "ticket-routing" {
		input = "text"
		in.DataType, in.StringValues = inferencev1.DataType_DATA_TYPE_STRING, row
	} else {
		in.DataType = inferencev1.DataType_DATA_TYPE_FLOAT32
		for _, text := range row {
			x, err := strconv.ParseFloat(text, 32)
			if err != nil {
				tb.Fatal(err)
			}
			in.FloatValues = append(in.FloatValues, float32(x))
		}
	}
	return &inferencev1.PredictRequest{Model: name, Inputs: map[string]*inferencev1.Tensor{input: in}}
}
