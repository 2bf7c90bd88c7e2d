package table_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// A few bytes of an answer must not become 2^40 lists.
func TestAnswersWithoutElementsAreNotWrittenOut(t *testing.T) {
	out := spec("y", float32s, []int64{-1, -1, -1})
	for _, format := range []table.Format{table.FormatCSV, table.FormatJSONL, table.FormatStream} {
		t.Run(string(format), func(t *testing.T) {
			s, err := table.NewSchema("row", nil, []*inferencev1.TensorSpec{out}, "")
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			w, err := table.NewWriter(&b, format, s, false)
			if err != nil {
				t.Fatal(err)
			}
			answer := func(shape ...int64) error {
				return w.Write(&table.Answer{Numbers: []int64{1}, Outputs: map[string]*inferencev1.Tensor{"y": {DataType: float32s, Shape: shape}}})
			}
			for _, shape := range [][]int64{{1, 1 << 40, 0}, {1, 1<<63 - 1, 0}} {
				if err := answer(shape...); err == nil || !strings.Contains(err.Error(), "not usable") {
					t.Errorf("%v: %v", shape, err)
				}
			}
			for _, shape := range [][]int64{{1, 3, 0}, {1, 0, 1 << 40}} {
				if err := answer(shape...); err != nil {
					t.Errorf("%v: %v", shape, err)
				}
			}
		})
	}
}

// What is kept beside the inputs takes memory too.
func TestChunksAreBoundedByWhatTheyKeep(t *testing.T) {
	const rows, long = 64, 4 << 10
	for format, text := range map[table.Format]string{
		table.FormatCSV:   "n,id\n" + strings.Repeat("1,"+strings.Repeat("x", long)+"\n", rows),
		table.FormatJSONL: strings.Repeat(`{"n":1,"id":"`+strings.Repeat("x", long)+"\"}\n", rows),
	} {
		t.Run(string(format), func(t *testing.T) {
			r, err := table.Open(file(t, []byte(text)), format, table.Options{Specs: count, Keep: []string{"id"}, Rows: rows, Bytes: 1 << 10})
			if err != nil {
				t.Fatal(err)
			}
			read := 0
			for {
				c, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if n := len(c.Numbers); n*long > 16<<10 {
					t.Errorf("a chunk of %d bytes keeps %d", 1<<10, n*long)
				}
				read += len(c.Numbers)
			}
			if read != rows {
				t.Errorf("%d rows, want %d", read, rows)
			}
		})
	}
}

// The width is the server's word, and the first line is written before any answer.
func TestWidthThatNoTableHas(t *testing.T) {
	s, err := table.NewSchema("row", nil, []*inferencev1.TensorSpec{spec("y", float32s, []int64{-1, 1 << 40})}, "")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := table.NewWriter(&b, table.FormatCSV, s, false); err != nil || b.String() != "row,y\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}
