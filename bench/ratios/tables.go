package ratios

import (
	"fmt"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/report"
)

func micro(v float64) string { return report.Count(v * 1e6) }

// pairs is a table of cases of two contestants, and of a third whose log is in
// memory.
func pairs(cases []Case, what string) string {
	t := report.NewTable("", "at once", "bare "+what+"/s", "Sallyport "+what+"/s", "throughput, of bare", "log in memory, of bare",
		"p50 µs, bare", "p50 µs", "p99 µs, bare", "p99 µs", "p99, of bare", "p99.9 µs, bare", "p99.9 µs", "server CPU µs, bare", "server CPU µs", "CPU, of bare")
	for i := range cases {
		c := &cases[i]
		bare, ours := &c.Measured[0], &c.Measured[1]
		a, b := bare.Total(), ours.Total()
		inMemory := ""
		if len(c.Measured) > 2 {
			inMemory = compare.Ratio(bare, &c.Measured[2], compare.Throughput).String()
		}
		row := []string{
			fmt.Sprintf("%s (%s)", c.Name, report.Bytes(float64(c.Bytes))), fmt.Sprint(c.Callers),
			report.Count(a.Rate()), report.Count(b.Rate()), compare.Ratio(bare, ours, compare.Throughput).String(), inMemory,
		}
		for _, q := range []float64{0.5, 0.99, 0.999} {
			row = append(row, quantile(a, q), quantile(b, q))
			if q == 0.99 {
				row = append(row, compare.Ratio(bare, ours, compare.P99).String())
			}
		}
		t.Row(append(row, micro(a.CPUPerCall().Seconds()), micro(b.CPUPerCall().Seconds()),
			compare.Ratio(bare, ours, compare.CPU).String())...)
	}
	return t.String()
}

func quantile(s compare.Slice, q float64) string { return micro(s.Latency.Quantile(q).Seconds()) }

// latencies is a table of cases of an open loop, with how late their calls began:
// what the client itself has added to both.
func latencies(cases []Case) string {
	t := report.NewTable("", "contestant", "p50 µs", "p99 µs", "p99.9 µs", "p99, of bare", "began late, p99 µs", "server CPU µs")
	for i := range cases {
		c := &cases[i]
		for j := range c.Measured {
			s, ratio := c.Measured[j].Total(), ""
			if j > 0 {
				ratio = compare.Ratio(&c.Measured[0], &c.Measured[j], compare.P99).String()
			}
			t.Row(c.Name, c.Measured[j].Name, quantile(s, 0.5), quantile(s, 0.99), quantile(s, 0.999), ratio,
				micro(s.Late.Quantile(0.99).Seconds()), micro(s.CPUPerCall().Seconds()))
		}
	}
	return t.String()
}

// batches is a table of rows a second.
func batches(cases []Case) string {
	t := report.NewTable("", "contestant", "rows/s", "of ONNX Runtime alone", "CPU µs/row")
	for i := range cases {
		c := &cases[i]
		for j := range c.Measured {
			s, ratio := c.Measured[j].Total(), ""
			if j > 0 {
				ratio = compare.Ratio(&c.Measured[0], &c.Measured[j], compare.Throughput).String()
			}
			t.Row(fmt.Sprintf("%s, %d rows (%s)", c.Name, c.Rows, report.Bytes(float64(c.Bytes))), c.Measured[j].Name,
				report.Count(s.Rate()*float64(c.Rows)), ratio, micro(s.CPUPerCall().Seconds()/float64(c.Rows)))
		}
	}
	return t.String()
}

// gates is a table of contestants, with what each has cost beyond the first.
func gates(cases []Case) string {
	t := report.NewTable("", "at once", "calls/s", "of bare", "p50 µs", "p99 µs", "server CPU µs")
	for i := range cases {
		c := &cases[i]
		for j := range c.Measured {
			s, ratio := c.Measured[j].Total(), ""
			if j > 0 {
				ratio = compare.Ratio(&c.Measured[0], &c.Measured[j], compare.Throughput).String()
			}
			t.Row(c.Measured[j].Name, fmt.Sprint(c.Callers), report.Count(s.Rate()), ratio,
				quantile(s, 0.5), quantile(s, 0.99), micro(s.CPUPerCall().Seconds()))
		}
	}
	return t.String()
}
