package batch_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/examples"
	"github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tensors = map[string]*model.Tensor

// world is models under a scheduler.
type world struct {
	*batch.Scheduler
	models *model.Repository

	mu     sync.Mutex // guards what follows
	merged []int      // requests of each merged run
	failed int        // merged runs that failed
	waited map[string]time.Duration
}

// open serves the models of a directory under a scheduler.
func open(tb testing.TB, dir string, cfg batch.Config) *world {
	tb.Helper()
	w := &world{waited: make(map[string]time.Duration)}
	cfg.Merged = func(_ string, requests int, _ int64, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.merged = append(w.merged, requests)
		if err != nil {
			w.failed++
		}
	}
	cfg.Waited = func(_ context.Context, model string, d time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.waited[model] += d
	}
	var err error
	if w.Scheduler, err = batch.New(cfg); err != nil {
		tb.Fatal(err)
	}
	w.models, err = model.Open(tb.Context(), model.Config{Directory: dir}, onnxtest.Open(tb), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := w.models.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	if failures := w.models.Failures(); len(failures) > 0 {
		tb.Fatal(failures)
	}
	return w
}

// version borrows a version for the test's time.
func (w *world) version(tb testing.TB, name string, number int64) *model.Version {
	tb.Helper()
	v, err := w.models.Acquire(name, number)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(v.Release)
	return v
}

// mergedRuns is how many runs were merged, of how many requests.
func (w *world) mergedRuns() (runs, requests int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.merged {
		requests += n
	}
	return len(w.merged), requests
}

// write puts a model of our own into a directory.
func write(tb testing.TB, dir, name string, g graph.Graph, manifest string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Join(dir, name, "1"), 0o700); err != nil {
		tb.Fatal(err)
	}
	for file, data := range map[string][]byte{"1/model.onnx": g.Model(17), "model.yaml": []byte(manifest)} {
		if err := os.WriteFile(filepath.Join(dir, name, file), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// exampleModels copies the example models, with more in each manifest.
func exampleModels(tb testing.TB, manifest string) (dir string) {
	tb.Helper()
	dir = tb.TempDir()
	sub, err := fs.Sub(examples.FS, "models")
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.CopyFS(dir, sub); err != nil {
		tb.Fatal(err)
	}
	files, err := filepath.Glob(dir + "/*/model.yaml")
	if err != nil || len(files) < 3 {
		tb.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(file, append(data, manifest...), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// holdout has the rows that an example is tried with, without their labels.
func holdout(tb testing.TB, name string) [][]string {
	tb.Helper()
	data, err := examples.FS.ReadFile("data/" + name + "-holdout.csv")
	if err != nil {
		tb.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		tb.Fatal(err)
	}
	for i, row := range rows {
		rows[i] = row[:len(row)-1]
	}
	return rows[1:]
}

// tensorOf makes an input of rows.
func tensorOf(tb testing.TB, dtype model.DType, rows [][]string) *model.Tensor {
	tb.Helper()
	t := &model.Tensor{DType: dtype, Shape: []int64{int64(len(rows)), int64(len(rows[0]))}}
	for _, row := range rows {
		if dtype == model.String {
			t.Strings = append(t.Strings, row...)
			continue
		}
		for _, text := range row {
			x, err := strconv.ParseFloat(text, 32)
			if err != nil {
				tb.Fatal(err)
			}
			t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(float32(x)))
		}
	}
	return t
}

func number(elem graph.Elem, shape ...int64) graph.Type {
	return graph.Type{Kind: graph.Tensor, Elem: elem, Ranked: true, Shape: shape}
}

const forever = math.MaxInt64

// rounds are inputs of the spinning model.
func rounds(n int64) tensors {
	return tensors{
		"n": {DType: model.Int64, Data: binary.LittleEndian.AppendUint64(nil, uint64(n))},
		"x": floats(0),
	}
}

func floats(elements ...float32) *model.Tensor {
	t := &model.Tensor{DType: model.Float32, Shape: []int64{int64(len(elements))}}
	for _, x := range elements {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(x))
	}
	return t
}

func ints(elements ...int64) *model.Tensor {
	t := &model.Tensor{DType: model.Int64, Shape: []int64{int64(len(elements))}}
	for _, x := range elements {
		t.Data = binary.LittleEndian.AppendUint64(t.Data, uint64(x))
	}
	return t
}

// picky takes the i-th of its table for each row: an index of 4 or more fails.
func picky() graph.Graph {
	table := floats(10, 20, 30, 40)
	return graph.Graph{
		Nodes:        []graph.Node{{Op: "Gather", Inputs: []string{"table", "i"}, Outputs: []string{"y"}}},
		Initializers: []graph.Initializer{{Name: "table", Elem: graph.Float, Shape: []int64{4}, Raw: table.Data}},
		Inputs:       []graph.Value{{Name: "i", Type: number(graph.Int64, -1)}},
		Outputs:      []graph.Value{{Name: "y", Type: number(graph.Float, -1)}},
	}
}

// until waits for a condition that another goroutine brings about.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !condition(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("it did not come to that in a minute")
		}
	}
}

// answer is what Run returned.
type answer struct {
	outputs tensors
	ran     time.Duration
	err     error
}

// start begins a request.
func (w *world) start(ctx context.Context, r batch.Request) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		var a answer
		a.outputs, a.ran, a.err = w.Run(ctx, r)
		done <- a
	}()
	return done
}

// busy takes one turn until release is called.
func (w *world) busy(t *testing.T) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	before := w.Running()
	done := w.start(ctx, batch.Request{Version: w.version(t, "spinning", 1), Caller: "busy", Inputs: rounds(forever), Rows: 1})
	until(t, func() bool { return w.Running() > before })
	return func() {
		cancel()
		<-done
	}
}
