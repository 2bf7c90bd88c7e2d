package batch

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// flight is a chunk under way: in one batch, or in several after the server has
// refused some of its rows.
type flight struct {
	chunk  *table.Chunk
	open   int // batches without a result
	parts  []part
	faults []table.Fault
}

// part is what the server answered to some rows of a chunk.
type part struct {
	rows    []int // their places in the chunk, ascending
	outputs map[string]*inferencev1.Tensor
}

// batch is rows of a chunk that are to be answered together.
type batch struct {
	flight *flight
	rows   []int
	again  bool // it failed once in a way that may pass
}

func newFlight(c *table.Chunk) (*flight, *batch) {
	f := &flight{chunk: c, faults: c.Faults}
	if len(c.Numbers) == 0 {
		return f, nil
	}
	b := &batch{flight: f, rows: make([]int, len(c.Numbers))}
	for i := range b.rows {
		b.rows[i] = i
	}
	f.open = 1
	return f, b
}

// inputs are those of the batch's rows.
func (b *batch) inputs() (map[string]*inferencev1.Tensor, error) {
	if len(b.rows) == len(b.flight.chunk.Numbers) {
		return b.flight.chunk.Inputs, nil
	}
	return tensor.Pick(b.flight.chunk.Inputs, b.rows)
}

// answered takes the outputs of the batch.
func (b *batch) answered(outputs map[string]*inferencev1.Tensor) {
	b.flight.open--
	b.flight.parts = append(b.flight.parts, part{b.rows, outputs})
}

// refused takes a refusal for the rows of the batch, and returns the batches to
// send in its place: without the rows that are refused by name, or halves. The
// error is that no other batch would do.
func (b *batch) refused(st *status.Status) ([]*batch, error) {
	if !ofRows(st) {
		return nil, st.Err()
	}
	if passing(st) && !b.again {
		b.again = true
		return []*batch{b}, nil
	}
	f := b.flight
	refuse := func(place int, text string) {
		f.faults = append(f.faults, table.Fault{Row: f.chunk.Numbers[b.rows[place]], Reason: reasonOf(st), Text: text})
	}
	if named := refusedRows(st, len(b.rows)); len(named) > 0 && st.Code() == codes.InvalidArgument {
		var rest []int
		for place, row := range b.rows {
			if text, ok := named[place]; ok {
				refuse(place, text)
			} else {
				rest = append(rest, row)
			}
		}
		f.open--
		if len(rest) == 0 {
			return nil, nil
		}
		f.open++
		return []*batch{{flight: f, rows: rest}}, nil
	}
	if len(b.rows) == 1 {
		if st.Code() == codes.ResourceExhausted {
			return nil, st.Err() // not for what the row holds
		}
		f.open--
		refuse(0, textOf(st))
		return nil, nil
	}
	f.open++
	half := len(b.rows) / 2
	return []*batch{{flight: f, rows: b.rows[:half]}, {flight: f, rows: b.rows[half:]}}, nil
}

// write writes what the flight brought, once no batch of it is open, in the order
// of the rows.
func (f *flight) write(w table.Writer, faults *faults) error {
	slices.SortFunc(f.parts, func(a, b part) int { return a.rows[0] - b.rows[0] })
	for _, p := range f.parts {
		answer, err := f.chunk.Pick(p.rows)
		if err != nil {
			return err
		}
		answer.Outputs = p.outputs
		if err := w.Write(answer); err != nil {
			return err
		}
	}
	slices.SortFunc(f.faults, func(a, b table.Fault) int {
		if a.Row != b.Row {
			return cmp.Compare(a.Row, b.Row)
		}
		return strings.Compare(a.Text, b.Text)
	})
	for _, fault := range f.faults {
		if err := faults.write(fault); err != nil {
			return err
		}
	}
	return nil
}
