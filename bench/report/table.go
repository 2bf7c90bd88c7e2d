package report

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Table is a table in Markdown.
type Table struct{ b strings.Builder }

// NewTable is a table with these headings. All columns but the first are aligned
// to the right.
func NewTable(headings ...string) *Table {
	t := new(Table)
	t.Row(headings...)
	rule := make([]string, len(headings))
	for i := range rule {
		rule[i] = "---:"
	}
	rule[0] = "---"
	t.Row(rule...)
	return t
}

// Row adds a row.
func (t *Table) Row(cells ...string) {
	_, _ = fmt.Fprintf(&t.b, "| %s |\n", strings.Join(cells, " | "))
}

func (t *Table) String() string { return t.b.String() }

// Duration is a time with three digits.
func Duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g µs", micro(d))
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", micro(d)/1e3)
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// Count is a number with three digits or, if it is large, none after the point
// and its thousands apart.
func Count(v float64) string {
	if math.Abs(v) < 1000 {
		return fmt.Sprintf("%.3g", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	var parts []string
	for len(digits) > 3 {
		parts = append([]string{digits[len(digits)-3:]}, parts...)
		digits = digits[:len(digits)-3]
	}
	return strings.Join(append([]string{digits}, parts...), ",")
}

// Bytes is a size.
func Bytes(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if n < 1024 {
			return fmt.Sprintf("%.3g %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.3g GiB", n)
}
