package table

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
)

// jsonKey marks a column of strings that are JSON, in the metadata of its field.
const jsonKey = "sallyport.json"

// jsonLines is a file with an object on each line.
type jsonLines struct {
	textColumns
	options Options
	known   []string
	file    *os.File
	size    int64

	r      *bufio.Reader
	offset int64 // after the line
	number int   // of the line
	given  []Member
}

func openJSONL(f *os.File, o Options, known []string) (source, error) {
	s := &jsonLines{options: o, known: known, file: f, size: sizeOf(f), textColumns: newTextColumns(o.Keep)}
	if o.JSON {
		s.metadata = arrow.NewMetadata([]string{jsonKey}, []string{"true"})
	}
	s.r = bufio.NewReaderSize(f, 1<<16)
	if start, _ := s.r.Peek(1); string(start) == "[" {
		return nil, errors.New("a JSON list, not JSON lines: each line must hold one object, without a comma behind it")
	}
	return s, nil
}

func (s *jsonLines) next() error {
	for {
		line, err := s.line()
		if err != nil {
			return err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if !utf8.Valid(line) {
			return &rowError{fmt.Errorf("line %d: not valid UTF-8", s.number)}
		}
		if !json.Valid(line) {
			return &rowError{fmt.Errorf("line %d: not JSON", s.number)}
		}
		if s.given, err = Members("", line); err != nil {
			return &rowError{fmt.Errorf("line %d: %w", s.number, err)}
		}
		return nil
	}
}

// line reads one line. It is valid until the next.
func (s *jsonLines) line() ([]byte, error) {
	line, err := s.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		whole := slices.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			if len(whole) > maxRow {
				return nil, fmt.Errorf("line %d: more than %d MiB", s.number+1, maxRow>>20)
			}
			line, err = s.r.ReadSlice('\n')
			whole = append(whole, line...)
		}
		line = whole
	}
	if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
		return nil, err
	}
	s.number++
	s.offset += int64(len(line))
	return line, nil
}

func (s *jsonLines) fill(in *Inputs) error {
	err := in.members("", s.given, s.known)
	if err != nil && !errors.Is(err, errOtherShape) {
		return fmt.Errorf("line %d: %w", s.number, err)
	}
	return err
}

func (s *jsonLines) keep() error {
	for i, name := range s.names {
		at := slices.IndexFunc(s.given, func(m Member) bool { return m.Name == name })
		if at < 0 || string(s.given[at].Value) == "null" {
			s.builders[i].AppendNull()
			continue
		}
		value := s.given[at].Value
		var text string
		if s.options.JSON || json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		s.add(i, text)
	}
	return nil
}

func (s *jsonLines) position() Position { return Position{Offset: s.offset, Line: s.number} }

func (s *jsonLines) seek(p Position) error {
	if p.Row == 0 {
		return nil
	}
	if _, err := s.file.Seek(p.Offset, io.SeekStart); err != nil {
		return err
	}
	s.r.Reset(s.file)
	s.offset, s.number = p.Offset, p.Line
	return nil
}

func (s *jsonLines) done() float64 { return share(s.offset, s.size) }
func (s *jsonLines) close() error  { return nil }
