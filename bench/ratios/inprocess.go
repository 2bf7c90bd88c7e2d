package ratios

import (
	"fmt"
	"io"
	"regexp"

	"github.com/sallyport/sallyport/bench/report"
)

// benchLine is a line of Go's benchmarks: name, time, bytes and allocations.
var benchLine = regexp.MustCompile(`(?m)^BenchmarkGates/(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op\s+(\d+) B/op\s+(\d+) allocs/op$`)

// InProcess makes a table of what BenchmarkGates printed.
func InProcess(printed io.Reader) (string, error) {
	text, err := io.ReadAll(printed)
	if err != nil {
		return "", err
	}
	lines := benchLine.FindAllSubmatch(text, -1)
	if len(lines) == 0 {
		return "", fmt.Errorf("no lines of BenchmarkGates in %q", text)
	}
	t := report.NewTable("", "ns", "bytes", "allocations")
	for _, l := range lines {
		t.Row(string(l[1]), string(l[2]), string(l[3]), string(l[4]))
	}
	return t.String(), nil
}
