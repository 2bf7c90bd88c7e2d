package table

import (
	"path/filepath"
	"strings"
)

// Format is a form of tables in files.
type Format string

// The formats, as flags name them.
const (
	FormatCSV     Format = "csv"
	FormatJSONL   Format = "jsonl"
	FormatParquet Format = "parquet"
	FormatArrow   Format = "arrow"  // Arrow IPC file
	FormatStream  Format = "arrows" // Arrow IPC stream
)

// Formats are all formats.
var Formats = []string{string(FormatCSV), string(FormatJSONL), string(FormatParquet), string(FormatArrow), string(FormatStream)}

// FormatOf is the format that a file's name says; "" if it says none.
func FormatOf(name string) Format {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		return FormatCSV
	case ".jsonl", ".ndjson":
		return FormatJSONL
	case ".parquet":
		return FormatParquet
	case ".arrow", ".feather":
		return FormatArrow
	case ".arrows":
		return FormatStream
	}
	return ""
}

// Text tells whether tables of the format are lines of text, which can be piped.
func (f Format) Text() bool { return f == FormatCSV || f == FormatJSONL }
