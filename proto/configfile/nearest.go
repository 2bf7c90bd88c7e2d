package configfile

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// slipError is that a field is not known, but one of nearly that name is.
type slipError struct {
	line, column int
	name, meant  string
}

func (e *slipError) Error() string {
	return fmt.Sprintf("%d:%d unknown field %q; is %q meant?", e.line, e.column, e.name, e.meant)
}

// nearest is the field that a name is most likely a slip of, one or two letters
// off; "" if none is.
func nearest(name string, schema protoreflect.MessageDescriptor) string {
	const most = 2
	best, found := most+1, ""
	for i := range schema.Fields().Len() {
		field := string(schema.Fields().Get(i).Name())
		// A short name is two letters off from anything.
		if d := Edits(name, field, best); d < best && d < len(field)/2 {
			best, found = d, field
		}
	}
	return found
}

// Edits is the Levenshtein distance of a and b in bytes, or enough if their lengths
// alone make it that.
func Edits(a, b string, enough int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= enough {
		return enough
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
