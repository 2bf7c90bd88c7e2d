package table

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// records is a table as Arrow records, one after the other.
type records interface {
	// schema is that of all records; skip and next may be called only after use.
	schema() *arrow.Schema
	// use says which columns are wanted, by their places in the schema. Records have
	// them in that order, or all columns if it returns false.
	use(columns []int) (only bool, err error)
	// skip moves on by so many rows; before the first next.
	skip(rows int64) error
	// next is the next record, io.EOF after the last. It is valid until closed.
	next() (arrow.RecordBatch, error)
	rows() int64 // of all; negative if nobody knows
	close() error
}

// columnRows is a table of Arrow records, read row by row.
type columnRows struct {
	records records
	specs   []*inferencev1.TensorSpec
	names   []string // of the columns used
	// fillers have for each input the columns used that fill it.
	fillers  [][]int
	whole    []bool // the input is one column of lists
	keepers  []int  // the columns used that are kept
	columns  []arrow.Field
	used     []int
	only     bool
	skipped  int64
	consumed int64

	record arrow.RecordBatch
	row    int
	cells  [][]cell
	lists  []func(*inferencev1.Tensor, int) ([]int64, error)
	// runs are rows kept, of records that may have gone by.
	runs []run
}

// run is rows of a record that follow one another.
type run struct {
	record   arrow.RecordBatch
	from, to int
}

func openColumns(f *os.File, format Format, o Options, known []string) (source, error) {
	r, err := openRecords(f, format)
	if err != nil {
		return nil, err
	}
	s := &columnRows{records: r, specs: o.Specs}
	if err := s.place(o, known); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if s.only, err = r.use(s.used); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return s, nil
}

// place finds the columns for the inputs and those to keep.
func (s *columnRows) place(o Options, known []string) error {
	const where = "the table's schema"
	fields := s.records.schema().Fields()
	header := make([]string, len(fields))
	for i, f := range fields {
		header[i] = f.Name
	}
	s.fillers, s.whole = make([][]int, len(o.Specs)), make([]bool, len(o.Specs))
	// An input that is one column of lists is placed here, the others as in CSV.
	var others []*inferencev1.TensorSpec
	var wholes []string
	for i, spec := range o.Specs {
		at := slices.Index(header, spec.GetName())
		if at < 0 {
			others = append(others, spec)
			continue
		}
		of, depth := listed(fields[at].Type)
		if depth == 0 {
			others = append(others, spec)
			continue
		}
		if want := len(spec.GetShape()) - 1; depth != want || !suits(of, spec.GetDataType()) {
			return fmt.Errorf("column %q is %s, the input of that name is %s of shape %s: convert the column",
				spec.GetName(), fields[at].Type, tensor.TypeName(spec.GetDataType()), tensor.FormatShape(spec.GetShape()))
		}
		s.whole[i] = true
		s.fillers[i] = []int{s.useColumn(at, header)}
		wholes = append(wholes, spec.GetName())
	}
	aside := slices.Concat(known, wholes)
	var places [][]int
	var err error
	if len(others) > 0 {
		places, err = place(where, header, others, aside)
	} else {
		err = unknown(slices.Clone(header), aside)
	}
	if err != nil {
		return err
	}
	for i, spec := range o.Specs {
		if s.whole[i] {
			continue
		}
		for _, at := range places[0] {
			if !suits(fields[at].Type, spec.GetDataType()) {
				return fmt.Errorf("column %q is %s, but the model wants %s: convert the column",
					header[at], fields[at].Type, tensor.Expected(spec.GetDataType()))
			}
			s.fillers[i] = append(s.fillers[i], s.useColumn(at, header))
		}
		places = places[1:]
	}
	var missing []string
	for _, name := range o.Keep {
		at := slices.Index(header, name)
		if at < 0 {
			missing = append(missing, name)
			continue
		}
		field, err := keptField(fields[at])
		if err != nil {
			return err
		}
		s.keepers = append(s.keepers, s.useColumn(at, header))
		s.columns = append(s.columns, field)
	}
	if missing != nil {
		return fmt.Errorf("%s lacks columns to keep: %s", where, tensor.Names(missing))
	}
	return nil
}

// useColumn is the place of a column among those used.
func (s *columnRows) useColumn(at int, header []string) int {
	if i := slices.Index(s.used, at); i >= 0 {
		return i
	}
	s.used = append(s.used, at)
	s.names = append(s.names, header[at])
	return len(s.used) - 1
}

func (s *columnRows) next() error {
	s.row++
	for s.record == nil || s.row >= int(s.record.NumRows()) {
		record, err := s.records.next()
		if err != nil {
			return err
		}
		s.record, s.row = record, 0
		if err := s.bind(); err != nil {
			return err
		}
	}
	s.consumed++
	return nil
}

// column is the column of the record that is used at a place.
func (s *columnRows) column(used int) arrow.Array {
	if s.only {
		return s.record.Column(used)
	}
	return s.record.Column(s.used[used])
}

// bind prepares to read the record's columns.
func (s *columnRows) bind() error {
	s.cells = make([][]cell, len(s.fillers))
	s.lists = make([]func(*inferencev1.Tensor, int) ([]int64, error), len(s.fillers))
	for i, filler := range s.fillers {
		var err error
		if s.whole[i] {
			s.lists[i], err = lists(s.column(filler[0]))
		} else {
			for _, at := range filler {
				var read cell
				if read, err = cells(s.column(at)); err != nil {
					break
				}
				s.cells[i] = append(s.cells[i], read)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *columnRows) fill(in *Inputs) error {
	return in.row(func(i int, t *inferencev1.Tensor) ([]int64, error) {
		if s.whole[i] {
			shape, err := s.lists[i](t, s.row)
			if err != nil {
				err = fmt.Errorf("column %q: %w", s.names[s.fillers[i][0]], err)
			}
			return shape, err
		}
		for j, at := range s.fillers[i] {
			if err := value(s.cells[i][j], s.column(at), s.row, t); err != nil {
				return nil, fmt.Errorf("column %q: %w", s.names[at], err)
			}
		}
		if len(s.specs[i].GetShape()) == 1 {
			return nil, nil
		}
		return []int64{int64(len(s.fillers[i]))}, nil
	}, nil)
}

func (s *columnRows) keep() error {
	if len(s.keepers) == 0 {
		return nil
	}
	if last := len(s.runs) - 1; last >= 0 && s.runs[last].record == s.record && s.runs[last].to == s.row {
		s.runs[last].to++
		return nil
	}
	s.runs = append(s.runs, run{s.record, s.row, s.row + 1})
	return nil
}

func (s *columnRows) kept() ([]arrow.Array, error) {
	var columns []arrow.Array
	current := s.record
	defer func() { s.record, s.runs = current, nil }()
	for i, at := range s.keepers {
		var parts []arrow.Array
		for _, r := range s.runs {
			s.record = r.record
			parts = append(parts, array.NewSlice(s.column(at), int64(r.from), int64(r.to)))
		}
		column, err := join(parts, s.columns[i])
		if err != nil {
			return nil, err
		}
		columns = append(columns, column)
	}
	return columns, nil
}

func (s *columnRows) fields() []arrow.Field { return s.columns }
func (s *columnRows) position() Position    { return Position{} }

func (s *columnRows) seek(p Position) error {
	s.skipped = p.Row
	return s.records.skip(p.Row)
}

func (s *columnRows) done() float64 { return share(s.skipped+s.consumed, s.records.rows()) }
func (s *columnRows) close() error  { return s.records.close() }
