package ratios

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/report"
)

// The goals of issue 5.
const (
	goalUnary  = 0.9
	goalStream = 0.95
	goalBatch  = 0.9
	goalP99    = 1.2
)

const method = `Written by ` + "`make bench`" + `; %s a slice, %d slices of each contestant, in turn.

## What is compared

- **bare** is what one writes by hand to have the models behind mTLS: grpc-go with
  its defaults, go-spiffe's TLS, ONNX Runtime called directly ([bare](bare),
  [engine](engine)). No policy, no quotas, no rules for what comes in, no record.
- **Sallyport** is ` + "`sallyport serve`" + ` with every gate on: a policy of
  forty roles, quotas, validation, the model's contract, the audit log signed and
  its records durable before an answer leaves (REQUIRED). Nothing is tuned but
  ` + "`max_queue_delay`" + ` (10 s), so that calls may wait as they do at the bare server.
- Both are processes of their own, load the same models with the same settings
  (one thread a run) and answer the same bytes alike, which is checked first.
- The client is the same for both: grpc-go over one connection, requests serialized
  beforehand, answers not deserialized. **It shares the processor with the server**,
  which makes ratios of throughput look better than the server alone is; the
  processor time of the server has nothing of the client in it.
- Slices of one round follow each other at once, in alternating order. A ratio is the
  median over the rounds of the ratio within a round; brackets have the least and
  the greatest. Latencies and processor time are over all slices.

`

// Write writes RESULTS.md and its plots into dir. What the gates cost in process
// is the output of BenchmarkGates, if it was run.
func (r *Results) Write(dir string, machine *report.Machine, inProcess string) error {
	var b strings.Builder
	b.WriteString("# Results\n\n")
	_, _ = fmt.Fprintf(&b, method, report.Duration(r.Settings.Slice), r.Settings.Rounds)
	b.WriteString("## Machine\n\n" + machine.Markdown())

	_, _ = fmt.Fprintf(&b, "\n## Unary calls\n\nGoal: %.2g of the throughput, p99 at most %.2g times.\n\n", goalUnary, goalP99)
	b.WriteString("A call waits until its record is on disk, with others that wait: one at a time waits\nfor a whole fsync. What is better with the log in memory is the disk's part.\n\n")
	b.WriteString(pairs(r.Unary, "calls"))
	b.WriteString("\n![Throughput of unary calls](plots/unary.svg)\n")
	b.WriteString("\n## Latency at a fixed rate\n\nBoth get calls of one row at the same times, whatever they answer; a latency counts\nfrom the time at which the call was to start.\n\n")
	b.WriteString(latencies(r.Latency))
	b.WriteString("\n![Latency at half of the capacity](plots/latency.svg)\n")
	_, _ = fmt.Fprintf(&b, "\n## Streams\n\nEight batches of each stream are on their way. The bare server runs the batches of a\nstream one after the other, Sallyport side by side. Goal: %.2g.\n\n", goalStream)
	b.WriteString(pairs(r.Streams, "batches"))
	b.WriteString("\n![Throughput of streams](plots/streams.svg)\n")
	_, _ = fmt.Fprintf(&b, "\n## Batches\n\nBeside ONNX Runtime alone in the client's process, with a run on each core and the\nbatch in memory: nothing is sent, decrypted or decoded. Goal: %.2g.\n\n", goalBatch)
	b.WriteString(batches(r.Batch))
	b.WriteString("\n## Gates\n\nOne row of the digits, with less and less to do. No setting leaves a gate out; what\neach costs in process comes after.\n\n")
	b.WriteString(gates(r.Gates))
	if inProcess != "" {
		b.WriteString("\nOne unary call in process, without network (`BenchmarkGates`):\n\n" + inProcess)
	}
	b.WriteString("\n## How to repeat it\n\n    make bench              # five minutes; on a machine that does nothing else\n    make bench BENCH=short  # half a minute, to see that everything works\n")
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(b.String()), 0o644), //nolint:gosec // a document
		plotCases(dir, "unary", "Unary calls: throughput of Sallyport beside bare grpc-go", goalUnary, r.Unary),
		plotCases(dir, "streams", "Streams: throughput of Sallyport beside bare grpc-go", goalStream, r.Streams),
		plotLatency(dir, r.Latency),
	)
}

func plotCases(dir, name, title string, goal float64, cases []Case) error {
	var bars []report.Bar
	for i := range cases {
		c := &cases[i]
		bars = append(bars, report.Bar{
			Name:   fmt.Sprintf("%s, %d at once", c.Name[strings.Index(c.Name, ", ")+2:], c.Callers),
			Spread: compare.Ratio(&c.Measured[0], &c.Measured[1], compare.Throughput),
		})
	}
	return report.Bars(filepath.Join(dir, "plots", name+".svg"), title, "of bare grpc-go; dashed: the goal", goal, bars)
}

func plotLatency(dir string, cases []Case) error {
	if len(cases) == 0 {
		return nil
	}
	c := &cases[len(cases)-1]
	var lines []report.Line
	for i := range c.Measured {
		lines = append(lines, report.Percentiles(c.Measured[i].Name, c.Measured[i].Total()))
	}
	return report.Lines(filepath.Join(dir, "plots", "latency.svg"), "Latency: "+c.Name,
		"nines: 1 is p90, 2 is p99, 3 is p99.9", "ms", false, lines)
}
