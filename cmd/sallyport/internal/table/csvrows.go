package table

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
)

// csvRows is a file of CSV.
type csvRows struct {
	*CSV
	textColumns
	file *os.File
	size int64
	at   []int // of the columns kept
	// broken is the line of a row that is no CSV, 0 if it is.
	broken int
}

func openCSV(f *os.File, o Options, known []string) (source, error) {
	c, err := NewCSV(f, o.Specs, known)
	if err != nil {
		return nil, err
	}
	s := &csvRows{CSV: c, file: f, size: sizeOf(f), textColumns: newTextColumns(o.Keep)}
	var missing []string
	for _, name := range o.Keep {
		i := slices.Index(c.header, name)
		if i < 0 {
			missing = append(missing, name)
		}
		s.at = append(s.at, i)
	}
	if missing != nil {
		return nil, fmt.Errorf("the first line lacks columns to keep: %s", tensor.Names(missing))
	}
	return s, nil
}

func (s *csvRows) next() error {
	err := s.Next()
	s.broken = 0
	if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
		s.broken = parse.Line
		return &rowError{fmt.Errorf("line %d: %w", parse.Line, parse.Err)}
	}
	return err
}

func (s *csvRows) fill(in *Inputs) error {
	for _, at := range s.at {
		if !utf8.ValidString(s.record[at]) {
			line, _ := s.r.FieldPos(at)
			return fmt.Errorf("line %d, column %q: not valid UTF-8", s.lines+line, s.header[at])
		}
	}
	return s.Fill(in)
}

func (s *csvRows) keep() error {
	for i, at := range s.at {
		s.add(i, s.record[at])
	}
	return nil
}

func (s *csvRows) position() Position {
	p := Position{Offset: s.offset + s.r.InputOffset(), Line: s.lines}
	if s.broken > 0 {
		p.Line = s.broken
		return p
	}
	if last := len(s.record) - 1; last >= 0 {
		line, _ := s.r.FieldPos(last)
		p.Line += line + strings.Count(s.record[last], "\n")
	}
	return p
}

func (s *csvRows) seek(p Position) error {
	if p.Row == 0 {
		return nil
	}
	if _, err := s.file.Seek(p.Offset, io.SeekStart); err != nil {
		return err
	}
	s.open(s.file)
	s.r.FieldsPerRecord = len(s.header)
	s.offset, s.lines = p.Offset, p.Line
	return nil
}

func (s *csvRows) done() float64 { return share(s.offset+s.r.InputOffset(), s.size) }
func (s *csvRows) close() error  { return nil }

// sizeOf is the size of a file; 0 of what has none.
func sizeOf(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

func share(part, whole int64) float64 {
	if whole <= 0 {
		return -1
	}
	return min(float64(part)/float64(whole), 1)
}

// textColumns are columns kept of a table of text.
type textColumns struct {
	names    []string
	builders []*array.StringBuilder
	metadata arrow.Metadata
}

func newTextColumns(names []string) textColumns {
	c := textColumns{names: names}
	for range names {
		c.builders = append(c.builders, array.NewStringBuilder(memory.DefaultAllocator))
	}
	return c
}

func (c *textColumns) add(i int, value string) { c.builders[i].Append(value) }

func (c *textColumns) kept() ([]arrow.Array, error) { //nolint:unparam // as source has it
	var columns []arrow.Array
	for _, b := range c.builders {
		columns = append(columns, b.NewArray())
	}
	return columns, nil
}

func (c *textColumns) fields() []arrow.Field {
	var fields []arrow.Field
	for _, name := range c.names {
		fields = append(fields, arrow.Field{Name: name, Type: arrow.BinaryTypes.String, Nullable: true, Metadata: c.metadata})
	}
	return fields
}
