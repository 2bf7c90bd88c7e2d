package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// prediction is what a model answered.
type prediction struct {
	model   string
	version int64
	digest  string
	// callIDs are those of the calls it took.
	callIDs []string
	// rows is the number of rows sent; 0 if the model does not work by rows.
	rows int
	// outputs have passed checkTensor.
	outputs map[string]*inferencev1.Tensor
}

// labelsOf is the name of the output that names the columns of output name, as
// the server gives it for a classifier's probabilities by class.
func labelsOf(name string) string { return name + ".labels" }

// isLabels tells whether the output only names the columns of another.
func (p *prediction) isLabels(name string) bool {
	of, found := strings.CutSuffix(name, ".labels")
	t := p.outputs[of]
	return found && t != nil && len(t.GetShape()) == 2 && int64(tensor.Count(p.outputs[name])) == t.GetShape()[1]
}

// column is one column of the answer as a table.
type column struct {
	header string
	tensor *inferencev1.Tensor
	// The element of a row is at first + row*step.
	first, step int
}

// table splits the outputs into the columns of a table with the rows sent, by
// the outputs' names, and the names of those that are no such table.
func (p *prediction) table() (columns []column, others []string) {
	for _, name := range slices.Sorted(maps.Keys(p.outputs)) {
		t := p.outputs[name]
		shape := t.GetShape()
		switch {
		case p.isLabels(name):
		case p.rows == 0 || len(shape) == 0 || len(shape) > 2 || shape[0] != int64(p.rows):
			others = append(others, name)
		case len(shape) == 1 || shape[1] == 1:
			columns = append(columns, column{name, t, 0, 1})
		default:
			n := int(shape[1])
			for i := range n {
				of := strconv.Itoa(i)
				if labels := labelsOf(name); p.outputs[labels] != nil && p.isLabels(labels) {
					of = tensor.Text(p.outputs[labels], i)
				}
				columns = append(columns, column{name + "[" + of + "]", t, i, n})
			}
		}
	}
	return columns, others
}

// writeTable writes a line for each row, for people, and then what is no table.
func (p *prediction) writeTable(w io.Writer) error {
	columns, others := p.table()
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(columns) > 0 {
		cells := make([]string, 0, len(columns)+1)
		cells = append(cells, "ROW")
		for _, c := range columns {
			cells = append(cells, printable(c.header))
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t")) //nolint:errcheck // Flush returns it
		for row := range p.rows {
			cells = append(cells[:0], strconv.Itoa(row+1))
			for _, c := range columns {
				cells = append(cells, printable(tensor.Text(c.tensor, c.first+row*c.step)))
			}
			fmt.Fprintln(tw, strings.Join(cells, "\t")) //nolint:errcheck // Flush returns it
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, name := range others {
		if _, err := fmt.Fprintf(w, "%s: %s\n", printable(name), tensor.AppendJSON(nil, p.outputs[name])); err != nil {
			return err
		}
	}
	return nil
}

// writeCSV writes a header and a line for each row.
func (p *prediction) writeCSV(w io.Writer) error {
	columns, others := p.table()
	if len(others) > 0 || len(columns) == 0 {
		return fmt.Errorf("the outputs are no table (%s); choose others with --outputs, or --output json", tensor.Names(others))
	}
	cw := csv.NewWriter(w)
	cells := make([]string, len(columns))
	for i, c := range columns {
		cells[i] = c.header
	}
	_ = cw.Write(cells) // Error returns it
	for row := range p.rows {
		for i, c := range columns {
			cells[i] = tensor.Text(c.tensor, c.first+row*c.step)
		}
		_ = cw.Write(cells) // Error returns it
	}
	cw.Flush()
	return cw.Error()
}

// writeJSON writes one object on one line: model, version, digest, call_id (of
// several calls: call_ids) and outputs by name, as nested arrays. NaN and the
// infinities are strings.
func (p *prediction) writeJSON(w io.Writer) error {
	b := []byte(`{"model":`)
	b = appendJSON(b, p.model)
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, p.version, 10)
	b = append(b, `,"digest":`...)
	b = appendJSON(b, p.digest)
	if len(p.callIDs) == 1 {
		b = append(b, `,"call_id":`...)
		b = appendJSON(b, p.callIDs[0])
	} else {
		b = append(b, `,"call_ids":`...)
		b = appendJSON(b, p.callIDs)
	}
	b = append(b, `,"outputs":{`...)
	for i, name := range slices.Sorted(maps.Keys(p.outputs)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSON(b, name)
		b = append(b, ':')
		b = tensor.AppendJSON(b, p.outputs[name])
	}
	b = append(b, "}}\n"...)
	_, err := w.Write(b)
	return err
}

func appendJSON[T string | []string](b []byte, v T) []byte {
	encoded, _ := json.Marshal(v) // strings always can be
	return append(b, encoded...)
}
