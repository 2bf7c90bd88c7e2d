package examples_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/examples"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// holdouts are the rows that each model is tried with.
var holdouts = map[string]string{"breast-cancer": "breast-cancer", "digits": "digits", "ticket-routing": "tickets"}

// Every example answers every held-out row as scikit-learn does: the same
// label, probabilities within 1e-5.
func TestEqualsScikitLearn(t *testing.T) {
	repository := open(t)
	if failures := repository.Failures(); len(failures) > 0 {
		t.Fatal(failures)
	}
	versions := 0
	for _, m := range repository.List() {
		rows := table(t, "data/"+holdouts[m.Name]+"-holdout.csv")
		for _, info := range m.Versions {
			versions++
			t.Run(fmt.Sprintf("%s/%d", info.Name, info.Number), func(t *testing.T) {
				v, err := repository.Acquire(info.Name, info.Number)
				if err != nil {
					t.Fatal(err)
				}
				defer v.Release()
				compare(t, v, rows, table(t, fmt.Sprintf("vectors/%s/%d.csv", v.Name, v.Number)))
			})
		}
	}
	vectors, err := fs.Glob(examples.FS, "vectors/*/*.csv")
	if err != nil || len(vectors) != versions {
		t.Errorf("%d versions, %d files of vectors, error %v", versions, len(vectors), err)
	}
}

func compare(t *testing.T, v *model.Version, data, vectors [][]string) {
	t.Helper()
	header, rows := data[0], data[1:]
	classes, vectors := vectors[0][1:], vectors[1:]
	input := v.Signature.Inputs[0]
	if got := v.Contract.Columns(input.Name); !slices.Equal(got, header[:len(header)-1]) {
		t.Fatalf("the manifest's columns are %q", got)
	}
	if len(rows) != len(vectors) || len(rows) < 50 {
		t.Fatalf("%d rows, %d vectors", len(rows), len(vectors))
	}
	inputs := map[string]*model.Tensor{input.Name: tensor(t, input.DType, rows)}
	if n, err := v.Contract.Check(inputs, nil); err != nil || n != int64(len(rows)) {
		t.Fatalf("%d rows, error %v", n, err)
	}
	outputs, err := v.Runner.Run(t.Context(), inputs, nil)
	if err != nil {
		t.Fatal(err)
	}
	labels, probabilities := texts(t, outputs["label"]), outputs["probabilities"]
	if probabilities.DType != model.Float32 || !slices.Equal(probabilities.Shape, []int64{int64(len(rows)), int64(len(classes))}) {
		t.Fatalf("probabilities are %s %v", probabilities.DType, probabilities.Shape)
	}
	for i, want := range vectors {
		if labels[i] != want[0] {
			t.Errorf("row %d: label %s, scikit-learn's %s", i, labels[i], want[0])
		}
		for j, text := range want[1:] {
			p, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			got := math.Float32frombits(binary.LittleEndian.Uint32(probabilities.Data[4*(i*len(classes)+j):]))
			if !(math.Abs(float64(got)-p) <= 1e-5) {
				t.Errorf("row %d: %s %v, scikit-learn's %v", i, classes[j], got, p)
			}
		}
	}
}

// open opens the examples as a repository under the real runtime.
func open(t *testing.T) *model.Repository {
	t.Helper()
	runtime := onnxtest.Open(t)
	models, err := fs.Sub(examples.FS, "models")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, models); err != nil {
		t.Fatal(err)
	}
	r, err := model.Open(t.Context(), model.Config{Directory: dir}, runtime, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func table(t *testing.T, path string) [][]string {
	t.Helper()
	b, err := examples.FS.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("%s: %d rows, error %v", path, len(rows), err)
	}
	return rows
}

// tensor makes one of rows without their last column, the label.
func tensor(t *testing.T, dtype model.DType, rows [][]string) *model.Tensor {
	t.Helper()
	width := len(rows[0]) - 1
	out := &model.Tensor{DType: dtype, Shape: []int64{int64(len(rows)), int64(width)}}
	for _, row := range rows {
		for _, text := range row[:width] {
			if dtype == model.String {
				out.Strings = append(out.Strings, text)
				continue
			}
			v, err := strconv.ParseFloat(text, 32)
			if err != nil {
				t.Fatal(err)
			}
			out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(float32(v)))
		}
	}
	return out
}

// texts are a tensor's elements as they are written.
func texts(t *testing.T, labels *model.Tensor) []string {
	t.Helper()
	if labels.DType == model.String {
		return labels.Strings
	}
	if labels.DType != model.Int64 {
		t.Fatalf("labels are %s", labels.DType)
	}
	var out []string
	for b := range slices.Chunk(labels.Data, 8) {
		out = append(out, strconv.FormatInt(int64(binary.LittleEndian.Uint64(b)), 10))
	}
	return out
}

// The columns that the manifests bound are those of the data, in their order;
// a value far outside is refused by its name.
func TestManifestBounds(t *testing.T) {
	repository := open(t)
	v, err := repository.Acquire("breast-cancer", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	row := table(t, "data/breast-cancer-holdout.csv")[1]
	row[3] = "-1"
	_, err = v.Contract.Check(map[string]*model.Tensor{"features": tensor(t, model.Float32, [][]string{row})}, nil)
	if err == nil || !strings.Contains(err.Error(), `inputs["features"][0,"mean_area"] must be at least 0`) {
		t.Errorf("got %v", err)
	}
}
