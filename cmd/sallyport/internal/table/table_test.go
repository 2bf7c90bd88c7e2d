package table_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

const (
	float32s = inferencev1.DataType_DATA_TYPE_FLOAT32
	int8s    = inferencev1.DataType_DATA_TYPE_INT8
	uint64s  = inferencev1.DataType_DATA_TYPE_UINT64
	bools    = inferencev1.DataType_DATA_TYPE_BOOL
	texts    = inferencev1.DataType_DATA_TYPE_STRING
)

func spec(name string, d inferencev1.DataType, shape []int64, columns ...string) *inferencev1.TensorSpec {
	return &inferencev1.TensorSpec{Name: name, DataType: d, Shape: shape, Columns: columns}
}

var (
	named   = []*inferencev1.TensorSpec{spec("features", float32s, []int64{-1, 2}, "a", "b")}
	several = []*inferencev1.TensorSpec{spec("age", int8s, []int64{-1, 1}), spec("smokes", bools, []int64{-1}), spec("name", texts, []int64{-1})}
	wide    = []*inferencev1.TensorSpec{spec("x", float32s, []int64{-1, -1})}
	fixed   = []*inferencev1.TensorSpec{spec("x", float32s, []int64{-1, 2})}
	cube    = []*inferencev1.TensorSpec{spec("x", int8s, []int64{-1, 2, 2})}
	count   = []*inferencev1.TensorSpec{spec("n", uint64s, []int64{-1})}
)

func file(t testing.TB, data []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// stream is an Arrow stream of one record, whose values are JSON.
func stream(t testing.TB, rows string, fields ...arrow.Field) []byte {
	t.Helper()
	schema := arrow.NewSchema(fields, nil)
	record, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(rows))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(schema))
	if err := errors.Join(w.Write(record), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func column(name string, t arrow.DataType) arrow.Field {
	return arrow.Field{Name: name, Type: t, Nullable: true}
}

// all reads a whole table from a position: a line for each row that can be read
// with what the model and the output get, and for each that cannot.
func all(r *table.Reader, specs []*inferencev1.TensorSpec) ([]string, []table.Position, error) {
	var rows []string
	var ends []table.Position
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rows, ends, nil
		}
		if err != nil {
			return rows, ends, err
		}
		ends = append(ends, c.To)
		for i, number := range c.Numbers {
			row := fmt.Sprint(number)
			for _, s := range specs {
				one := tensor.Cut(c.Inputs, i, i+1)[s.GetName()]
				if err := tensor.Check(one); err != nil {
					return rows, ends, err
				}
				row += " " + string(tensor.AppendJSON(nil, one))
			}
			for _, k := range c.Kept {
				row += " " + k.ValueStr(i)
			}
			rows = append(rows, row)
		}
		for _, f := range c.Faults {
			rows = append(rows, fmt.Sprintf("%d %s", f.Row, f.Text))
		}
	}
}

func TestRead(t *testing.T) {
	list := arrow.ListOf(arrow.PrimitiveTypes.Float64)
	for _, tt := range []struct {
		name   string
		format table.Format
		data   string
		specs  []*inferencev1.TensorSpec
		keep   []string
		want   []string
	}{
		{"CSV", table.FormatCSV, "b,id,a\n2,x,1\n4,y,3\n", named, []string{"id"}, []string{"1 [[1,2]] x", "2 [[3,4]] y"}},
		{"CSV with rows that do not do", table.FormatCSV, "a,b\n1,2\n1\n1,\"x\"\ny\"z,1\n,1\n5,6\n", named, nil, []string{
			"1 [[1,2]]", "6 [[5,6]]", "2 line 3: wrong number of fields", `3 line 4, column "b": expected a number (FLOAT32), got "x"`,
			`4 line 5: bare " in non-quoted-field`, `5 line 6, column "a": empty, but FLOAT32 is expected; a missing number is written NaN`,
		}},
		{"JSON lines", table.FormatJSONL, "{\"age\":1,\"smokes\":true,\"name\":\"A\",\"id\":[1,\"x\"]}\n\n{\"age\":300,\"smokes\":true,\"name\":\"A\"}\n{\"age\":2,\"smokes\":false,\"name\":\"B\"}", several, []string{"id"}, []string{
			`1 [[1]] [true] ["A"] [1,"x"]`, `3 [[2]] [false] ["B"] (null)`, "2 line 3: age: 300 does not fit INT8",
		}},
		{"lists of two lengths are two chunks", table.FormatJSONL, "{\"x\":[1,2]}\n{\"x\":[3]}\n{\"x\":[4]}\n", wide, nil, []string{"1 [[1,2]]", "2 [[3]]", "3 [[4]]"}},
		{"a list of the wrong length", table.FormatJSONL, "{\"x\":[1,2]}\n{\"x\":[3]}\n{\"x\":[4,5]}\n", fixed, nil, []string{
			"1 [[1,2]]", "3 [[4,5]]", "2 line 2: x: has shape [N, 1], the model wants [N, 2]",
		}},
		{"Arrow", table.FormatStream, string(stream(t, `[{"a":1,"b":2,"id":"x"},{"a":1,"b":null,"id":"y"},{"a":null,"b":1},{"a":5,"b":6}]`,
			column("b", arrow.PrimitiveTypes.Int64), column("a", arrow.PrimitiveTypes.Float64), column("id", arrow.BinaryTypes.String))), named, []string{"id"}, []string{
			"1 [[1,2]] x", "4 [[5,6]] (null)", `2 column "b": null, but a number (FLOAT32) is expected; a missing number is NaN`,
			`3 column "a": null, but a number (FLOAT32) is expected; a missing number is NaN`,
		}},
		{"Arrow of other widths", table.FormatStream, string(stream(t, `[{"age":127,"smokes":true,"name":"A"},{"age":128,"smokes":true,"name":"A"}]`,
			column("age", arrow.PrimitiveTypes.Uint16), column("smokes", arrow.FixedWidthTypes.Boolean), column("name", arrow.BinaryTypes.LargeString))), several, nil,
			[]string{`1 [[127]] [true] ["A"]`, `2 column "age": 128 does not fit INT8`}},
		{"Arrow overflow", table.FormatStream, string(stream(t, `[{"a":1e39,"b":1}]`, column("a", arrow.PrimitiveTypes.Float64), column("b", arrow.PrimitiveTypes.Float32))), named, nil,
			[]string{`1 column "a": 1e+39 does not fit FLOAT32`}},
		{"Arrow negative", table.FormatStream, string(stream(t, `[{"n":-1},{"n":1}]`, column("n", arrow.PrimitiveTypes.Int64))), count, nil,
			[]string{"2 [1]", `1 column "n": -1 does not fit UINT64`}},
		{"Arrow lists", table.FormatStream, string(stream(t, `[{"x":[1,2]},{"x":null},{"x":[3]},{"x":[null,1]},{"x":[5,6]}]`, column("x", list))), fixed, nil, []string{
			"1 [[1,2]]", `2 column "x": null, but a list is expected`, "5 [[5,6]]", "3 x: has shape [N, 1], the model wants [N, 2]",
			`4 column "x": [0]: null, but a number (FLOAT32) is expected; a missing number is NaN`,
		}},
		{"Arrow lists of one size", table.FormatStream, string(stream(t, `[{"x":[1,2]},{"x":[3,4]}]`,
			column("x", arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Float32)))), fixed, nil, []string{"1 [[1,2]]", "2 [[3,4]]"}},
		{"Arrow lists of lists", table.FormatStream, string(stream(t, `[{"x":[[1,2],[3,4]]},{"x":[[1,2],[3]]}]`,
			column("x", arrow.ListOf(arrow.ListOf(arrow.PrimitiveTypes.Int8))))), cube, nil, []string{
			"1 [[[1,2],[3,4]]]", `2 column "x": [1]: a list of another length than those before it`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := table.Options{Specs: tt.specs, Keep: tt.keep, Rows: 100, Bytes: 1 << 20}
			r, err := table.Open(file(t, []byte(tt.data)), tt.format, o)
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := all(r, tt.specs)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
			// From wherever a chunk ended it goes on the same way.
			o.Rows = 1
			one, err := table.Open(file(t, []byte(tt.data)), tt.format, o)
			if err != nil {
				t.Fatal(err)
			}
			rows, ends, err := all(one, tt.specs)
			if err != nil {
				t.Fatal(err)
			}
			for i, end := range ends {
				again, err := table.Open(file(t, []byte(tt.data)), tt.format, o)
				if err == nil {
					err = again.Seek(end)
				}
				if err != nil {
					t.Fatal(err)
				}
				rest, _, err := all(again, tt.specs)
				if diff := cmp.Diff(rows[i+1:], rest, cmpEmpty); diff != "" || err != nil {
					t.Errorf("from %+v: %v\n%s", end, err, diff)
				}
			}
		})
	}
}

var cmpEmpty = cmp.Transformer("lines", func(s []string) string { return strings.Join(s, "\n") })

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		format table.Format
		data   string
		specs  []*inferencev1.TensorSpec
		want   string
	}{
		{"a JSON list", table.FormatJSONL, "[{}]", named, "a JSON list, not JSON lines"},
		{"text for a number", table.FormatStream, string(stream(t, `[]`, column("a", arrow.BinaryTypes.String), column("b", arrow.PrimitiveTypes.Int8))), named,
			`column "a" is utf8, but the model wants a number (FLOAT32): convert the column`},
		{"a fraction for an integer", table.FormatStream, string(stream(t, `[]`, column("n", arrow.PrimitiveTypes.Float64))), count,
			`column "n" is float64, but the model wants an integer (UINT64): convert the column`},
		{"a list too deep", table.FormatStream, string(stream(t, `[]`, column("x", arrow.ListOf(arrow.ListOf(arrow.PrimitiveTypes.Int8))))), fixed,
			`column "x" is list<item: list<item: int8, nullable>, nullable>, the input of that name is FLOAT32 of shape [N, 2]: convert the column`},
		{"unknown column", table.FormatStream, string(stream(t, `[]`, column("n", arrow.PrimitiveTypes.Int8), column("id", arrow.PrimitiveTypes.Int8))), count,
			`the model has no such columns: "id"`},
		{"no stream", table.FormatStream, "a,b\n", named, "no Arrow stream that can be read"},
		{"no Parquet", table.FormatParquet, "a,b\n", named, "no Parquet file that can be read"},
		{"no Arrow file", table.FormatArrow, "a,b\n", named, "no Arrow file that can be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := table.Open(file(t, []byte(tt.data)), tt.format, table.Options{Specs: tt.specs, Rows: 1, Bytes: 1})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// A compressed column says itself how long it is.
func TestBufferIsBounded(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{column("n", arrow.PrimitiveTypes.Int64)}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	const rows = 1000
	for i := range int64(rows) {
		b.Field(0).(*array.Int64Builder).Append(i)
	}
	var data bytes.Buffer
	w := ipc.NewWriter(&data, ipc.WithSchema(schema), ipc.WithZstd())
	if err := errors.Join(w.Write(b.NewRecordBatch()), w.Close()); err != nil {
		t.Fatal(err)
	}
	zstd := []byte{0x28, 0xb5, 0x2f, 0xfd}
	length := append(binary.LittleEndian.AppendUint64(nil, 8*rows), zstd...)
	if !bytes.Contains(data.Bytes(), length) {
		t.Fatal("the column is not compressed")
	}
	read := func(data []byte) error {
		r, err := table.Open(file(t, data), table.FormatStream, table.Options{Specs: count, Rows: rows, Bytes: 1 << 20})
		if err == nil {
			_, err = r.Next()
		}
		return err
	}
	if err := read(data.Bytes()); err != nil {
		t.Error(err)
	}
	lies := append(binary.LittleEndian.AppendUint64(nil, 1<<40), zstd...)
	if err := read(bytes.Replace(data.Bytes(), length, lies, 1)); err == nil || !strings.Contains(err.Error(), "a buffer of 1099511627776 bytes") {
		t.Errorf("a column of a terabyte: %v", err)
	}
}

// Whatever the bytes, every row comes once, as inputs that fit the model or as a
// fault, or the table is refused. Of Arrow there is no fuzzing: the library believes
// what a schema says of its own length, and asks the system for more memory than
// there is.
func FuzzRead(f *testing.F) {
	formats := []table.Format{table.FormatCSV, table.FormatJSONL}
	signatures := [][]*inferencev1.TensorSpec{named, several, wide, fixed, cube, count}
	f.Add(uint8(0), uint8(0), []byte("a,b\n1,2\n3\n"))
	f.Add(uint8(1), uint8(1), []byte(`{"age":1,"smokes":true,"name":"A"}`+"\n{}\n"))
	f.Add(uint8(1), uint8(2), []byte("{\"x\":[1]}\n{\"x\":[1,2]}\n"))
	f.Fuzz(func(t *testing.T, format, signature uint8, data []byte) {
		specs := signatures[int(signature)%len(signatures)]
		r, err := table.Open(file(t, data), formats[int(format)%len(formats)], table.Options{Specs: specs, Ignore: []string{table.All}, Rows: 3, Bytes: 1 << 10})
		if err != nil {
			return
		}
		next := int64(0)
		for {
			c, err := r.Next()
			if err != nil {
				return
			}
			if n := int64(len(c.Numbers) + len(c.Faults)); c.From.Row != next || c.To.Row != next+n || n == 0 || n > 3 {
				t.Fatalf("%d rows from %+v to %+v after %d", n, c.From, c.To, next)
			}
			next = c.To.Row
			for _, s := range specs {
				if len(c.Numbers) == 0 {
					continue
				}
				in := c.Inputs[s.GetName()]
				if err := tensor.Check(in); err != nil || in.GetShape()[0] != int64(len(c.Numbers)) {
					t.Fatalf("input %s: shape %v for %d rows: %v", s.GetName(), in.GetShape(), len(c.Numbers), err)
				}
			}
		}
	})
}
