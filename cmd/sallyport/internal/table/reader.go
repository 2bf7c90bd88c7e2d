// Package table reads tables, row by row, as the inputs of a model, and writes
// the model's outputs beside columns that were kept. Tables are CSV, JSON lines,
// Parquet, and Arrow IPC files and streams.
package table

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Options say what to read of a table.
type Options struct {
	// Specs are the model's inputs.
	Specs []*inferencev1.TensorSpec
	// Keep names columns that go to the output as they are.
	Keep []string
	// Ignore names columns to leave aside; All stands for all that the model does
	// not know.
	Ignore []string
	// JSON lets the kept columns of JSON lines stay JSON; else strings are kept as
	// they are, and the text of all else.
	JSON bool
	// Rows and Bytes bound a chunk; both at least 1.
	Rows, Bytes int
}

// Position is a place between two rows.
type Position struct {
	// Row is how many rows are before.
	Row int64 `json:"row"`
	// Offset and Line are how many bytes and lines, in formats of text.
	Offset int64 `json:"offset,omitempty"`
	Line   int   `json:"line,omitempty"`
}

// Chunk is rows that follow one another. Those that cannot be read are in Faults,
// all others in the rest.
type Chunk struct {
	// From is the position before the first row, To that after the last.
	From, To Position
	// Numbers are the numbers of the rows in the table; the first is 1.
	Numbers []int64
	// Inputs are the model's inputs, of as many rows.
	Inputs map[string]*inferencev1.Tensor
	// Kept are the columns kept, of as many rows.
	Kept []arrow.Array
	// Faults are the rows that cannot be read.
	Faults []Fault
}

// Fault is a row without an answer.
type Fault struct {
	// Row is its number; the first row is 1.
	Row int64
	// Reason is a word for programs, Text for people.
	Reason, Text string
}

// Unreadable is the reason of rows that cannot be read, or do not fit the model.
const Unreadable = "UNREADABLE"

// source is a table that is read row by row.
type source interface {
	// next moves to the next row: io.EOF after the last. A *rowError is of that row
	// only.
	next() error
	// fill adds the row to in; its error is of that row only.
	fill(in *Inputs) error
	// keep adds the row to those of which kept tells the columns.
	keep() error
	// kept are the columns of the rows kept since it was called before.
	kept() ([]arrow.Array, error)
	fields() []arrow.Field // of kept
	// position is where the next row begins; Row is not set.
	position() Position
	// seek goes to a position that position has told; before the first next.
	seek(Position) error
	// done tells how much of the table is read, from 0 to 1; negative if nobody
	// knows.
	done() float64
	close() error
}

// rowError is that one row cannot be read.
type rowError struct{ err error }

func (e *rowError) Error() string { return e.err.Error() }
func (e *rowError) Unwrap() error { return e.err }

// Reader reads a table in chunks.
type Reader struct {
	source  source
	options Options
	at      Position
	again   bool // the source's row has not been taken yet
	err     error
}

// Open opens a table. An error names what does not fit the model.
func Open(f *os.File, format Format, options Options) (*Reader, error) {
	// Kept columns are known, if not to the model.
	known := slices.Concat(options.Ignore, options.Keep)
	var s source
	var err error
	switch format {
	case FormatCSV:
		s, err = openCSV(f, options, known)
	case FormatJSONL:
		s, err = openJSONL(f, options, known)
	default:
		s, err = openColumns(f, format, options, known)
	}
	if err != nil {
		return nil, err
	}
	return &Reader{source: s, options: options}, nil
}

// Kept are the columns that chunks have in Kept.
func (r *Reader) Kept() []arrow.Field { return r.source.fields() }

// Seek goes to a position at which a chunk ended; before the first Next.
func (r *Reader) Seek(p Position) error {
	r.at = p
	return r.source.seek(p)
}

// Done tells how much of the table is read, from 0 to 1; negative if nobody knows.
func (r *Reader) Done() float64 { return r.source.done() }

// Close closes the table, not its file.
func (r *Reader) Close() error { return r.source.close() }

// Next reads the next chunk. The error is io.EOF after the last; any other ends
// the table.
func (r *Reader) Next() (*Chunk, error) {
	if r.err != nil {
		return nil, r.err
	}
	c := &Chunk{From: r.at, To: r.at}
	in := NewInputs(r.options.Specs)
	for len(c.Numbers)+len(c.Faults) < r.options.Rows && in.bytes() < r.options.Bytes &&
		c.To.Offset-c.From.Offset < int64(textPerByte*r.options.Bytes) {
		if r.err = r.row(c, in); r.err != nil {
			break
		}
	}
	if errors.Is(r.err, errOtherShape) {
		r.err = nil
	}
	if r.err != nil && !errors.Is(r.err, io.EOF) || len(c.Numbers)+len(c.Faults) == 0 {
		return nil, r.err
	}
	if len(c.Numbers) == 0 {
		return c, nil
	}
	var err error
	if c.Inputs, err = in.Tensors(); err == nil {
		c.Kept, err = r.source.kept()
	}
	if err != nil {
		r.err = err
		return nil, err
	}
	return c, nil
}

// row reads one row into the chunk, as one of in or as a fault. errOtherShape
// leaves the row for the next chunk.
func (r *Reader) row(c *Chunk, in *Inputs) error {
	number := r.at.Row + 1
	var wrong error // with this row
	if !r.again {
		err := r.source.next()
		if one := (*rowError)(nil); errors.As(err, &one) {
			wrong = one.err
		} else if err != nil {
			return err
		}
	}
	r.again = false
	before := in.bytes()
	if wrong == nil {
		wrong = r.source.fill(in)
		if errors.Is(wrong, errOtherShape) {
			r.again = true
			return wrong
		}
	}
	if size := in.bytes() - before; wrong == nil && size > r.options.Bytes {
		in.removeLast()
		wrong = fmt.Errorf("a row of %d bytes, of which a message takes %d at most", size, r.options.Bytes)
	}
	r.at = r.source.position()
	r.at.Row = number
	c.To = r.at
	if wrong != nil {
		c.Faults = append(c.Faults, Fault{Row: number, Reason: Unreadable, Text: wrong.Error()})
		return nil
	}
	c.Numbers = append(c.Numbers, number)
	return r.source.keep()
}

// textPerByte is how much text a chunk may have for each byte of inputs. What columns
// that are kept hold takes memory too.
const textPerByte = 8

// Limit says how many rows a chunk may have from now on.
func (r *Reader) Limit(rows int) { r.options.Rows = rows }
