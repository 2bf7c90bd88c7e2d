package table

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// maxRow bounds a row of text: a quote that nobody closes must not take all of a
// file for one.
const maxRow = 16 << 20

// CSV reads the rows of a table whose first line names its columns, in any order.
// An only input whose columns have no names takes the columns in their order.
type CSV struct {
	specs  []*inferencev1.TensorSpec
	header []string
	places [][]int
	rests  [][]int64 // of each input, the shape of its part of a row

	r       *csv.Reader
	bounded *boundedReader
	record  []string
	// What the reader began with: the bytes and lines before.
	offset int64
	lines  int
}

// NewCSV reads the first line. Columns that ignore names are left aside.
func NewCSV(r io.Reader, specs []*inferencev1.TensorSpec, ignore []string) (*CSV, error) {
	c := &CSV{specs: specs}
	buffered := bufio.NewReader(r)
	if start, _ := buffered.Peek(3); string(start) == "\ufeff" {
		_, _ = buffered.Discard(3) // they are there
		c.offset = 3
	}
	c.open(buffered)
	header, err := c.r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the input is empty; its first line must name the columns")
	}
	if err != nil {
		return nil, err
	}
	c.header = slices.Clone(header)
	for i := range c.header {
		c.header[i] = strings.TrimSpace(c.header[i])
	}
	if c.places, err = place("the first line", c.header, specs, ignore); err != nil {
		return nil, err
	}
	for i, spec := range specs {
		var rest []int64
		if len(spec.GetShape()) == 2 {
			rest = []int64{int64(len(c.places[i]))}
		}
		c.rests = append(c.rests, rest)
	}
	return c, nil
}

func (c *CSV) open(r io.Reader) {
	c.bounded = &boundedReader{r: r}
	c.r = csv.NewReader(c.bounded)
	c.r.ReuseRecord = true
}

// Next moves to the next row. The error is io.EOF after the last; a *csv.ParseError
// is of one row only.
func (c *CSV) Next() error {
	c.bounded.reset()
	var err error
	c.record, err = c.r.Read()
	if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
		parse.StartLine += c.lines
		parse.Line += c.lines
	}
	return err
}

// Fill adds the row to in.
func (c *CSV) Fill(in *Inputs) error {
	return in.row(func(i int, t *inferencev1.Tensor) ([]int64, error) {
		for _, column := range c.places[i] {
			if err := tensor.Append(t, c.record[column]); err != nil {
				line, _ := c.r.FieldPos(column)
				return nil, fmt.Errorf("line %d, column %q: %w", c.lines+line, c.header[column], err)
			}
		}
		return c.rests[i], nil
	}, nil)
}

// boundedReader fails when a row takes too many bytes.
type boundedReader struct {
	r    io.Reader
	read int
}

func (b *boundedReader) reset() { b.read = 0 }

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.read > maxRow {
		return 0, fmt.Errorf("a row of more than %d MiB: is a quote not closed?", maxRow>>20)
	}
	n, err := b.r.Read(p)
	b.read += n
	return n, err
}
