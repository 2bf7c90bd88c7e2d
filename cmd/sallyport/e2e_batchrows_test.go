package main_test

import (
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	"github.com/sallyport/sallyport/examples"
	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// patients are the holdout rows of breastCancer, of which tables of any length are
// made, with what ONNX Runtime answers to each.
type patients struct {
	columns       []string
	rows          [][]float32
	probabilities [][2]float32
}

func newPatients(t *testing.T) *patients {
	t.Helper()
	f, err := examples.FS.Open("data/breast-cancer-holdout.csv")
	must(t, err)
	all, err := csv.NewReader(f).ReadAll()
	must(t, err)
	s := &patients{columns: all[0][:30]}
	in := &model.Tensor{DType: model.Float32, Shape: []int64{int64(len(all) - 1), 30}}
	for _, line := range all[1:] {
		var row []float32
		for _, cell := range line[:30] {
			v, err := strconv.ParseFloat(cell, 32)
			must(t, err)
			row = append(row, float32(v))
			in.Data = binary.LittleEndian.AppendUint32(in.Data, math.Float32bits(float32(v)))
		}
		s.rows = append(s.rows, row)
	}
	artifact, err := examples.FS.ReadFile("models/breast-cancer/2/model.onnx")
	must(t, err)
	runner, err := onnxtest.Open(t).Load(artifact)
	must(t, err)
	defer func() { must(t, runner.Close()) }()
	out, err := runner.Run(t.Context(), map[string]*model.Tensor{"features": in}, nil)
	must(t, err)
	for i := range s.rows {
		at := func(j int) float32 {
			return math.Float32frombits(binary.LittleEndian.Uint32(out["probabilities"].Data[4*(2*i+j):]))
		}
		s.probabilities = append(s.probabilities, [2]float32{at(0), at(1)})
	}
	return s
}

// id is that of a row, counted from 0.
func id(row int) string { return fmt.Sprintf("patient-%d", row) }

// bad tells which rows of a table with bad ones cannot be read, and which the
// contract refuses.
func bad(row int) (unreadable, refused bool) { return row%197 == 5, row%211 == 7 }

// write makes a table of so many rows: an id and the columns of the model.
func (s *patients) write(t *testing.T, path string, rows int, withBad bool) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer func() { must(t, errors.Join(ignoreClosed(f.Close()))) }()
	value := func(row, column int) (v float32, unreadable bool) {
		v = s.rows[row%len(s.rows)][column]
		u, r := bad(row)
		if withBad && column == 3 && r {
			v = -1
		}
		return v, withBad && column == 2 && u
	}
	if format := table.FormatOf(path); format.Text() {
		var b strings.Builder
		if format == table.FormatCSV {
			b.WriteString("id," + strings.Join(s.columns, ",") + "\n")
		}
		for row := range rows {
			var cells []string
			for column, name := range s.columns {
				v, unreadable := value(row, column)
				cell := strconv.FormatFloat(float64(v), 'g', -1, 32)
				if unreadable {
					cell = `"oops"`
				}
				if format == table.FormatJSONL {
					cell = strconv.Quote(name) + ":" + cell
				}
				cells = append(cells, cell)
			}
			if format == table.FormatCSV {
				b.WriteString(id(row) + "," + strings.Join(cells, ",") + "\n")
			} else {
				b.WriteString(`{"id":"` + id(row) + `",` + strings.Join(cells, ",") + "}\n")
			}
		}
		_, err := f.WriteString(b.String())
		must(t, err)
		return
	}
	fields := []arrow.Field{{Name: "id", Type: arrow.BinaryTypes.String}}
	for _, name := range s.columns {
		fields = append(fields, arrow.Field{Name: name, Type: arrow.PrimitiveTypes.Float32, Nullable: true})
	}
	schema := arrow.NewSchema(fields, nil)
	w := recordWriter(t, f, table.FormatOf(path), schema)
	const at = 1000 // rows of a record
	for from := 0; from < rows; from += at {
		b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
		for row := from; row < min(from+at, rows); row++ {
			b.Field(0).(*array.StringBuilder).Append(id(row))
			for column := range s.columns {
				if v, unreadable := value(row, column); unreadable {
					b.Field(column + 1).AppendNull()
				} else {
					b.Field(column + 1).(*array.Float32Builder).Append(v)
				}
			}
		}
		must(t, w.Write(b.NewRecordBatch()))
	}
	must(t, w.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

type recordsWriter interface {
	Write(arrow.RecordBatch) error
	Close() error
}

// buffered writes row groups of many records.
type buffered struct{ *pqarrow.FileWriter }

func (b buffered) Write(r arrow.RecordBatch) error { return b.WriteBuffered(r) }

func recordWriter(t *testing.T, f *os.File, format table.Format, schema *arrow.Schema) recordsWriter {
	t.Helper()
	switch format { //nolint:exhaustive // the rest is a stream
	case table.FormatParquet:
		w, err := pqarrow.NewFileWriter(schema, f, parquet.NewWriterProperties(parquet.WithMaxRowGroupLength(1<<16)), pqarrow.DefaultWriterProps())
		must(t, err)
		return buffered{w}
	case table.FormatArrow:
		w, err := ipc.NewFileWriter(f, ipc.WithSchema(schema))
		must(t, err)
		return w
	}
	return ipc.NewWriter(f, ipc.WithSchema(schema))
}

// recordsOf are the records of a Parquet or Arrow table.
func recordsOf(t *testing.T, path string) iter.Seq[arrow.RecordBatch] {
	t.Helper()
	return func(yield func(arrow.RecordBatch) bool) {
		f, err := os.Open(path)
		must(t, err)
		defer func() { _ = f.Close() }()
		var next func() (arrow.RecordBatch, error)
		switch table.FormatOf(path) {
		case table.FormatParquet:
			p, err := file.NewParquetReader(f)
			must(t, err)
			r, err := pqarrow.NewFileReader(p, pqarrow.ArrowReadProperties{BatchSize: 1 << 14}, memory.DefaultAllocator)
			must(t, err)
			records, err := r.GetRecordReader(t.Context(), nil, nil)
			must(t, err)
			next = records.Read
		case table.FormatArrow:
			r, err := ipc.NewFileReader(f)
			must(t, err)
			next = r.Read
		default:
			r, err := ipc.NewReader(f)
			must(t, err)
			next = r.Read
		}
		for {
			record, err := next()
			if errors.Is(err, io.EOF) {
				return
			}
			must(t, err)
			if !yield(record) {
				return
			}
		}
	}
}

// check demands that a table has every row once, in order, with its own id and
// what ONNX Runtime answers.
func (s *patients) check(t *testing.T, path string, rows int64) {
	t.Helper()
	next := int64(0)
	for record := range recordsOf(t, path) {
		column := func(name string) arrow.Array {
			at := record.Schema().FieldIndices(name)
			if len(at) != 1 {
				t.Fatalf("no column %s in %v", name, record.Schema())
			}
			return record.Column(at[0])
		}
		numbers, ids := column("row").(*array.Int64), column("id").(*array.String)
		lists := column("probabilities").(*array.List)
		values := lists.ListValues().(*array.Float32)
		for i := range int(record.NumRows()) {
			want := s.probabilities[int(next)%len(s.probabilities)]
			from, to := lists.ValueOffsets(i)
			got := values.Float32Values()[from:to]
			if numbers.Value(i) != next+1 || ids.Value(i) != id(int(next)) || !slices.Equal(got, want[:]) {
				t.Fatalf("row %d has number %d, id %s and probabilities %v, want %v", next+1, numbers.Value(i), ids.Value(i), got, want)
			}
			next++
		}
	}
	if next != rows {
		t.Errorf("%d rows, want %d", next, rows)
	}
}

// peak is the most memory that a process that has ended had at a time.
func peak(cmd *exec.Cmd) int64 {
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10 // Linux counts in KiB
}
