package table

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

// recordRows is how many rows of Parquet are decoded at once.
const recordRows = 1 << 14

func openRecords(f *os.File, format Format) (r records, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("no %s that can be read: %w", describe(format), err)
		}
	}()
	defer recovered(&err) // the library has its own ways with files that are broken
	switch format {       //nolint:exhaustive // the rest are Arrow files
	case FormatParquet:
		return openParquet(f)
	case FormatStream:
		s, err := ipc.NewReader(f, ipc.WithAllocator(bounded{memory.DefaultAllocator}))
		if err != nil {
			return nil, err
		}
		return &arrowStream{reader: s}, nil
	}
	a, err := ipc.NewFileReader(f, ipc.WithAllocator(bounded{memory.DefaultAllocator}))
	if err != nil {
		return nil, err
	}
	n := int64(-1)
	return &arrowFile{reader: a, total: n}, nil
}

func describe(f Format) string {
	return map[Format]string{FormatParquet: "Parquet file", FormatArrow: "Arrow file", FormatStream: "Arrow stream"}[f]
}

// recovered makes a panic an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%v", p)
	}
}

type arrowStream struct {
	reader  *ipc.Reader
	pending arrow.RecordBatch
}

func (s *arrowStream) schema() *arrow.Schema   { return s.reader.Schema() }
func (s *arrowStream) use([]int) (bool, error) { return false, nil }
func (s *arrowStream) rows() int64             { return -1 }
func (s *arrowStream) close() error            { s.reader.Release(); return nil }
func (s *arrowStream) skip(rows int64) error   { return skipRecords(s.read, &s.pending, rows) }
func (s *arrowStream) next() (arrow.RecordBatch, error) {
	return taken(&s.pending, s.read)
}

func (s *arrowStream) read() (r arrow.RecordBatch, err error) {
	defer recovered(&err)
	r, err = s.reader.Read()
	if err != nil {
		return nil, err
	}
	r.Retain()
	return r, nil
}

type arrowFile struct {
	reader  *ipc.FileReader
	at      int
	total   int64
	pending arrow.RecordBatch
}

func (a *arrowFile) schema() *arrow.Schema   { return a.reader.Schema() }
func (a *arrowFile) use([]int) (bool, error) { return false, nil }
func (a *arrowFile) rows() int64             { return a.total }
func (a *arrowFile) close() error            { return a.reader.Close() }
func (a *arrowFile) skip(rows int64) error   { return skipRecords(a.read, &a.pending, rows) }
func (a *arrowFile) next() (arrow.RecordBatch, error) {
	return taken(&a.pending, a.read)
}

func (a *arrowFile) read() (r arrow.RecordBatch, err error) {
	defer recovered(&err)
	if a.at == a.reader.NumRecords() {
		return nil, io.EOF
	}
	a.at++
	return a.reader.RecordBatchAt(a.at - 1)
}

// skipRecords reads over rows; what is left of the record in which they end is
// then pending.
func skipRecords(read func() (arrow.RecordBatch, error), pending *arrow.RecordBatch, rows int64) error {
	for rows > 0 {
		r, err := read()
		if errors.Is(err, io.EOF) {
			return nil // next says so too
		}
		if err != nil {
			return err
		}
		if r.NumRows() > rows {
			*pending = r.NewSlice(rows, r.NumRows())
			return nil
		}
		rows -= r.NumRows()
	}
	return nil
}

func taken(pending *arrow.RecordBatch, read func() (arrow.RecordBatch, error)) (arrow.RecordBatch, error) {
	if r := *pending; r != nil {
		*pending = nil
		return r, nil
	}
	return read()
}

type parquetFile struct {
	file   *file.Reader
	reader *pqarrow.FileReader
	all    *arrow.Schema
	rest   pqarrow.RecordReader
	// order has for each column used its place in the records, which have them as
	// the file does.
	order []int
}

func openParquet(f *os.File) (*parquetFile, error) {
	props := parquet.NewReaderProperties(memory.DefaultAllocator)
	props.BufferedStreamEnabled = true // a row group need not be in memory whole
	p, err := file.NewParquetReader(f, file.WithReadProps(props))
	if err != nil {
		return nil, err
	}
	r, err := pqarrow.NewFileReader(p, pqarrow.ArrowReadProperties{BatchSize: recordRows}, memory.DefaultAllocator)
	if err != nil {
		return nil, err
	}
	schema, err := r.Schema()
	if err != nil {
		return nil, err
	}
	return &parquetFile{file: p, reader: r, all: schema}, nil
}

func (p *parquetFile) schema() *arrow.Schema { return p.all }
func (p *parquetFile) rows() int64           { return p.file.NumRows() }

func (p *parquetFile) close() error {
	if p.rest != nil {
		p.rest.Release()
	}
	return nil // the file is the caller's
}

func (p *parquetFile) use(columns []int) (_ bool, err error) {
	defer recovered(&err)
	wanted := make(map[string]int, len(columns))
	for i, at := range columns {
		wanted[p.all.Field(at).Name] = i
	}
	// A column of lists has its values in a leaf below.
	var leaves []int
	schema := p.file.MetaData().Schema
	for i := range schema.NumColumns() {
		if _, ok := wanted[schema.Column(i).ColumnPath()[0]]; ok {
			leaves = append(leaves, i)
		}
	}
	if p.rest, err = p.reader.GetRecordReader(context.Background(), leaves, nil); err != nil {
		return false, err
	}
	p.order = make([]int, len(columns))
	for i, f := range p.rest.Schema().Fields() {
		p.order[wanted[f.Name]] = i
	}
	return true, nil
}

func (p *parquetFile) skip(rows int64) (err error) {
	defer recovered(&err)
	if rows == 0 {
		return nil
	}
	return p.rest.SeekToRow(rows)
}

func (p *parquetFile) next() (_ arrow.RecordBatch, err error) {
	defer recovered(&err)
	r, err := p.rest.Read()
	if err != nil {
		return nil, err
	}
	return reorder(r, p.order), nil
}
