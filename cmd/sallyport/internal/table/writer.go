package table

import (
	"bytes"
	"io"

	"github.com/apache/arrow-go/v18/arrow/ipc"
)

// Writer writes answers as they come, in a form that only grows: cut off after
// any answer and continued, it is as if it had been written at one go.
type Writer interface {
	Write(*Answer) error
}

// Growing is the format in which answers are written until all are there: Finish
// makes of it the format asked for.
func Growing(f Format) Format {
	if f.Text() {
		return f
	}
	return FormatStream
}

// NewWriter writes in a format that is Growing. begun tells that something was
// written before.
func NewWriter(w io.Writer, format Format, s *Schema, begun bool) (Writer, error) {
	switch format { //nolint:exhaustive // the rest are Arrow streams
	case FormatCSV:
		return newCSVWriter(w, s, begun)
	case FormatJSONL:
		return newJSONWriter(w, s), nil
	}
	return newArrowWriter(w, s, begun)
}

// End is what Finish adds to a table that has grown.
func End(f Format) []byte {
	if f == FormatStream {
		return []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0} // no more messages
	}
	return nil
}

// arrowWriter writes an Arrow stream.
type arrowWriter struct {
	schema *Schema
	skip   *skipWriter
	w      *ipc.Writer
}

func newArrowWriter(w io.Writer, s *Schema, begun bool) (*arrowWriter, error) {
	// The library writes the schema before the first record, wherever that is.
	var head bytes.Buffer
	if err := ipc.NewWriter(&head, ipc.WithSchema(s.arrow())).Close(); err != nil {
		return nil, err
	}
	start := head.Bytes()[:head.Len()-len(End(FormatStream))]
	if !begun {
		if _, err := w.Write(start); err != nil {
			return nil, err
		}
	}
	skip := &skipWriter{w, len(start)}
	return &arrowWriter{s, skip, ipc.NewWriter(skip, ipc.WithSchema(s.arrow()))}, nil
}

func (a *arrowWriter) Write(answer *Answer) error {
	if err := a.schema.check(answer); err != nil {
		return err
	}
	record, err := a.schema.record(answer)
	if err != nil {
		return err
	}
	return a.w.Write(record)
}

// skipWriter leaves out what is written first.
type skipWriter struct {
	w    io.Writer
	skip int
}

func (s *skipWriter) Write(p []byte) (int, error) {
	n := min(s.skip, len(p))
	s.skip -= n
	written, err := s.w.Write(p[n:])
	return n + written, err
}
