package table

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// csvWriter writes CSV. An output of shape [N, columns] is a cell for each column,
// one of more dimensions, or of a width that is not known, one cell of JSON.
type csvWriter struct {
	schema *Schema
	w      *csv.Writer
	cells  []string
}

// maxSpread is the most cells of an output. Wider ones no program opens, and a server
// that names such a width must not take all memory for the first line.
const maxSpread = 1 << 20

// spread is how many cells an output takes; 0 for one of JSON.
func spread(shape []int64) int {
	switch {
	case depth(shape) == 0:
		return 1
	case len(shape) == 2 && shape[1] > 0 && shape[1] <= maxSpread:
		return int(shape[1])
	}
	return 0
}

func newCSVWriter(w io.Writer, s *Schema, begun bool) (*csvWriter, error) {
	c := &csvWriter{schema: s, w: csv.NewWriter(w)}
	if begun {
		return c, nil
	}
	var header []string
	if s.Number != "" {
		header = append(header, s.Number)
	}
	for _, f := range s.Kept {
		header = append(header, f.Name)
	}
	for _, o := range s.Outputs {
		name := s.Prefix + o.GetName()
		if n := spread(o.GetShape()); n > 1 {
			for i := range n {
				header = append(header, name+"["+strconv.Itoa(i)+"]")
			}
			continue
		}
		header = append(header, name)
	}
	_ = c.w.Write(header) // Error returns it
	c.w.Flush()
	return c, c.w.Error()
}

func (c *csvWriter) Write(a *Answer) error {
	if err := c.schema.check(a); err != nil {
		return err
	}
	for row, number := range a.Numbers {
		c.cells = c.cells[:0]
		if c.schema.Number != "" {
			c.cells = append(c.cells, strconv.FormatInt(number, 10))
		}
		for _, k := range a.Kept {
			text := ""
			if k.IsValid(row) {
				text = k.ValueStr(row)
			}
			c.cells = append(c.cells, text)
		}
		for _, o := range c.schema.Outputs {
			t := a.Outputs[o.GetName()]
			n := spread(o.GetShape())
			if n == 0 {
				c.cells = append(c.cells, string(appendRow(nil, t, row)))
			}
			if n > 1 && t.GetShape()[1] != int64(n) {
				return fmt.Errorf("the server's answer is not usable: output %q has %d columns, not %d", o.GetName(), t.GetShape()[1], n)
			}
			for i := range n {
				c.cells = append(c.cells, tensor.Text(t, row*n+i))
			}
		}
		_ = c.w.Write(c.cells) // Error returns it
	}
	c.w.Flush()
	return c.w.Error()
}

// jsonWriter writes an object on each line.
type jsonWriter struct {
	schema *Schema
	w      io.Writer
	names  [][]byte // of all columns, as JSON
	buffer []byte
}

func newJSONWriter(w io.Writer, s *Schema) *jsonWriter {
	j := &jsonWriter{schema: s, w: w}
	for _, f := range s.arrow().Fields() {
		name, _ := json.Marshal(f.Name) // a string always can be
		j.names = append(j.names, name)
	}
	return j
}

func (j *jsonWriter) Write(a *Answer) error {
	if err := j.schema.check(a); err != nil {
		return err
	}
	b := j.buffer[:0]
	for row, number := range a.Numbers {
		b = append(b, '{')
		next := 0
		name := func() {
			if next > 0 {
				b = append(b, ',')
			}
			b = append(append(b, j.names[next]...), ':')
			next++
		}
		if j.schema.Number != "" {
			name()
			b = strconv.AppendInt(b, number, 10)
		}
		for i, k := range a.Kept {
			name()
			var err error
			if b, err = appendValue(b, k, row, j.schema.Kept[i]); err != nil {
				return err
			}
		}
		for _, o := range j.schema.Outputs {
			name()
			t := a.Outputs[o.GetName()]
			if depth(o.GetShape()) == 0 {
				b = tensor.AppendElement(b, t, row)
				continue
			}
			b = appendRow(b, t, row)
		}
		b = append(b, "}\n"...)
	}
	j.buffer = b
	_, err := j.w.Write(b)
	return err
}

// appendValue appends a value of a column that was kept.
func appendValue(b []byte, column arrow.Array, row int, field arrow.Field) ([]byte, error) {
	if column.IsNull(row) {
		return append(b, "null"...), nil
	}
	if text, ok := column.(*array.String); ok && field.Metadata.FindKey(jsonKey) >= 0 {
		return append(b, text.Value(row)...), nil
	}
	value, err := json.Marshal(column.GetOneForMarshal(row))
	return append(b, value...), err
}

// appendRow appends one row of a tensor as nested arrays.
func appendRow(b []byte, t *inferencev1.Tensor, row int) []byte {
	one := tensor.Cut(map[string]*inferencev1.Tensor{"": t}, row, row+1)[""]
	one.Shape = one.Shape[1:]
	return tensor.AppendJSON(b, one)
}
