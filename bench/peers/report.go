package peers

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/sallyport/sallyport/bench/compare"
	"github.com/sallyport/sallyport/bench/report"
)

const method = `Written by ` + "`make bench-peers`" + `; %s a slice of calls and %s of batches, %d slices of
each, in turn.

## What is compared

The same models and the same rows, through five ways to serve them, on %d cores that
servers and client share. Each knows who calls, lets that caller call some models
only, limits calls by caller (so high that none is refused), checks shape, number of
rows, range and NaN of what comes in, and logs each call. Before anything is
measured, each must answer as Sallyport does, **labels and probabilities bit for bit**, and must
refuse a stranger, a model that its caller may not call, numbers out of range, NaN
and rows without a feature. A call that fails ends the run.

%s
ONNX Runtime has one thread a run and the same version everywhere (Sallyport and the
server behind Envoy use its C library, the others its Python package).

What favours the peers, and what does not:

- Sallyport's record of a call is part of a signed Merkle log and **on disk before the
  answer leaves**; the others write a line of text that nobody waits for.
- Their limits are in the memory of each worker, so that a caller has the limit times
  the workers; limits that workers share need Redis, and a round trip for each call.
- MLServer cannot have TLS on gRPC: it is measured **without**, and with a replica on
  each core. Its own parallel workers are off: on this kind of machine they answered a
  third as many calls of one row and no more of 4,096.
- FastAPI and Flask have TLS 1.3 but no client certificates; callers have API keys.
- FastAPI and Flask take JSON, as they do in use: most of what they cost with many
  rows is text. That is part of what their callers pay.
- Envoy sees no model names in messages: callers send the name in a header too, and
  the server behind refuses a message that names another.
- The client is Go's for all: grpc-go over %d connections (MLServer: %d over all
  replicas), net/http with a connection for each call that is open. Requests are
  serialized beforehand, answers are read but not decoded. It shares the cores, which
  makes ratios of throughput smaller than those of the servers alone; the processor
  time of a server has nothing of the client in it.
- Connections are open before a slice begins: nobody pays for handshakes.

Slices of one round follow each other at once, in alternating order. A ratio is the
median over the rounds of the ratio within a round; brackets have the least and the
greatest. Latencies and processor time are over all slices.

`

// settings say how each peer is set up.
func (r *Results) settings() string {
	t := report.NewTable("", "set up as", "versions")
	for _, row := range [][2]string{
		{nameSallyport, "`sallyport serve`, all gates on, nothing tuned: mTLS, a policy of forty roles, quotas, contracts, audit REQUIRED"},
		{nameFastAPI, fmt.Sprintf("uvicorn, %d workers, uvloop and httptools; TLS; API key as a dependency, slowapi, pydantic models in and out, a coroutine as handler ([source](peers/fastapi/app.py))", r.Cores)},
		{nameFlask, fmt.Sprintf("gunicorn, %d workers of 4 threads; TLS; API key before each request, Flask-Limiter, pydantic ([source](peers/flask/app.py))", r.Cores)},
		{nameMLServer, fmt.Sprintf("%d replicas, no parallel workers, metrics off; gRPC in plaintext, raw tensors; a custom runtime that checks an API key, limits and validates ([source](peers/mlserver/runtime.py))", r.Cores)},
		{nameEnvoy, fmt.Sprintf("%d workers; mTLS with SVIDs, RBAC by SPIFFE ID, path and model header, local rate limit by SPIFFE ID, JSON access log ([source](peers/envoy/envoy.yaml)); behind it grpc-go in plaintext on loopback, which validates ([source](peers/modelserver/server.go))", r.Cores)},
	} {
		version := r.Versions[row[0]]
		if version == "" {
			version = "this commit"
		}
		t.Row(row[0], row[1], version)
	}
	return t.String()
}

// goals of issue 5: at least so many times each peer's throughput.
var goals = map[string]float64{nameFastAPI: 5, nameFlask: 5, nameMLServer: 1, nameEnvoy: 1}

// Write writes PEERS.md into dir.
func (r *Results) Write(dir string, machine *report.Machine) error {
	var b strings.Builder
	b.WriteString("# Beside what people use today\n\n")
	_, _ = fmt.Fprintf(&b, method, report.Duration(r.Settings.Slice), report.Duration(r.Settings.Batch), r.Settings.Rounds,
		r.Cores, r.settings(), connections, max(1, connections/r.Cores)*r.Cores)
	b.WriteString("## Machine\n\n" + machine.Markdown())
	b.WriteString("\n## Summary\n\nThroughput of Sallyport, of each peer's: the least and the greatest median of the cases\nbelow.\n\n" + r.summary())
	b.WriteString("\n## Calls\n\n" + r.table(r.Unary, "calls/s", 1))
	b.WriteString("\n## Batches\n\nOne call a batch. A stream of Sallyport has two batches on their way; latencies are\nfrom when a batch was sent, so that half of them is waiting for the other.\n\n" + r.table(r.Batch, "rows/s", 4096))
	b.WriteString("\n## Memory\n\nResident, all processes of a server together; what processes share counts for each.\nSallyport's holds its log's index, and grows with what was answered.\n\n" + r.memory())
	b.WriteString("\n## How to repeat it\n\n    make bench-peers              # eight minutes; on a machine that does nothing else\n    make bench-peers BENCH=short  # a minute, to see that everything works\n\nThe first run installs each peer into an environment of its own under `build/peers`,\nwith versions and hashes pinned in `bench/peers/*/requirements.txt`. Python 3.11 is\nneeded.\n")
	return os.WriteFile(filepath.Join(dir, "PEERS.md"), []byte(b.String()), 0o644) //nolint:gosec // a document
}

func ratioOf(c *Case, i int) compare.Spread {
	return compare.Ratio(&c.Measured[i], &c.Measured[0], compare.Throughput)
}

func (r *Results) summary() string {
	t := report.NewTable("Sallyport beside", "calls", "batches", "goal", "met")
	for i := 1; i < len(r.Memory); i++ {
		row := []string{r.Memory[i].Name}
		goal, met := goals[r.Memory[i].Name], true
		for _, cases := range [][]Case{r.Unary, r.Batch} {
			least, most := math.Inf(1), 0.0
			for j := range cases {
				m := ratioOf(&cases[j], i).Median
				least, most = min(least, m), max(most, m)
			}
			met = met && least >= goal
			row = append(row, fmt.Sprintf("%.2f – %.2f", least, most))
		}
		word := "yes"
		if !met {
			word = "**no**"
		}
		t.Row(append(row, fmt.Sprintf("%.0f", goal), word)...)
	}
	return t.String()
}

// table is a row for each peer and case; unit is how many of what is counted a
// call has.
func (r *Results) table(cases []Case, counted string, unit float64) string {
	t := report.NewTable("", "at once", "served by", counted, "Sallyport, of it", "p50", "p99", "p99, Sallyport of it",
		"server CPU a call", "CPU, Sallyport of it")
	for j := range cases {
		c := &cases[j]
		name := fmt.Sprintf("%s, %d rows", c.Name, c.Rows)
		if c.Rows == 1 {
			name = c.Name + ", 1 row"
		}
		for i := range c.Measured {
			m := &c.Measured[i]
			s := m.Total()
			ratios := [3]string{}
			if i > 0 {
				for k, figure := range []func(compare.Slice) float64{compare.Throughput, compare.P99, compare.CPU} {
					ratios[k] = compare.Ratio(m, &c.Measured[0], figure).String()
				}
			}
			t.Row(name, fmt.Sprint(c.Callers), m.Name, report.Count(s.Rate()*unit), ratios[0],
				report.Duration(s.Latency.Quantile(0.5)), report.Duration(s.Latency.Quantile(0.99)), ratios[1],
				report.Duration(s.CPUPerCall()), ratios[2])
		}
	}
	return t.String()
}

func (r *Results) memory() string {
	t := report.NewTable("", "once it serves", "after the calls", "after the batches")
	for _, m := range r.Memory {
		t.Row(m.Name, report.Bytes(float64(m.Idle)), report.Bytes(float64(m.Unary)), report.Bytes(float64(m.Batches)))
	}
	return t.String()
}
