package target

import (
	"fmt"
	"strings"
)

// Policy is a policy as a company of some size has it: forty roles with rules and
// bindings, of which the callers of a site have one, and blocked callers. The
// limits of that one are counted like any and never reached.
func Policy() string { return PolicyOf(40) }

// PolicyOf is Policy with so many roles, of two rules each.
func PolicyOf(roles int) string {
	var b strings.Builder
	b.WriteString("roles:\n")
	for i := range roles - 1 {
		fmt.Fprintf(&b, `  - name: team-%d
    rules:
      - {actions: [PREDICT, DESCRIBE], models: ["team-%d-*", shared-%d]}
      - {actions: [PREDICT_STREAM], models: [shared-%d]}
    limits: {requests_per_second: 50, rows_per_second: 5000, max_streams: 4}
`, i, i, i%7, i%7)
	}
	b.WriteString(`  - name: bench
    rules:
      - {actions: [PREDICT, PREDICT_STREAM], models: [breast-cancer, digits, "ticket-*", "bench-*"]}
      - {actions: [DESCRIBE], models: ["*"]}
    limits: {requests_per_second: 1e9, request_burst: 1000000000, rows_per_second: 1e12, row_burst: 1000000000000, max_rows_per_request: 1000000, max_streams: 100000}
bindings:
`)
	for i := range roles - 1 {
		fmt.Fprintf(&b, "  - {role: team-%d, callers: [\"spiffe://sallyport.test/team-%d/*\"]}\n", i, i)
	}
	b.WriteString(`  - {role: bench, callers: ["spiffe://sallyport.test/bench/*"]}
blocked:
  - {callers: ["spiffe://sallyport.test/bench/stolen"], reason: an example of a caller whose key has leaked}
  - {addresses: [10.9.0.0/16], reason: an example of a network that nobody calls from}
`)
	return b.String()
}
