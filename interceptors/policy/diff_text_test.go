package policy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/interceptors/policy"
)

const limitsOfOne = "limits: {requests_per_second: 1, rows_per_second: 1, max_streams: 1}"

func TestDiffText(t *testing.T) {
	for _, tt := range []struct {
		name, before, after string
		want                string
	}{
		{
			name: "a wider model, and what was allowed already",
			before: `
roles: [{name: reader, rules: [{actions: [PREDICT, DESCRIBE], models: [digits]}], LIMITS}]
bindings: [{role: reader, callers: ["spiffe://td/clinic/*"]}]`,
			after: `
roles: [{name: reader, rules: [{actions: [PREDICT, DESCRIBE], models: ["*"]}], LIMITS}]
bindings: [{role: reader, callers: ["spiffe://td/clinic/*"]}]`,
			want: `
spiffe://td/clinic/*
  + PREDICT, DESCRIBE on *
  = PREDICT, DESCRIBE on digits: always, as before`,
		},
		{
			name: "another way to write the same",
			before: `
roles:
  - {name: reader, rules: [{actions: [PREDICT], models: ["f*"]}, {actions: [DESCRIBE], models: [b, a]}], LIMITS}
bindings:
  - {role: reader, callers: ["spiffe://td/*"]}
  - {role: reader, callers: ["spiffe://td/b"]}`,
			after: `
roles:
  - {name: reader, rules: [{actions: [DESCRIBE], models: [a]}, {actions: [DESCRIBE], models: [b]}, {actions: [PREDICT], models: [f-1, "f*"]}], LIMITS}
bindings:
  - {role: reader, callers: ["spiffe://td/a", "spiffe://td/*"]}`,
		},
		{
			name: "a caller that a wider change does not reach",
			before: `
roles: [{name: reader, rules: [{actions: [PREDICT], models: [m, n]}], LIMITS}]
bindings: [{role: reader, callers: ["spiffe://td/a/b"]}]
blocked: [{callers: ["spiffe://td/c/*"], reason: "key \"leaked\""}]`,
			after: `
roles: [{name: reader, rules: [{actions: [PREDICT], models: [m, n]}], LIMITS}]
bindings: [{role: reader, callers: ["spiffe://td/*"]}]
blocked: [{callers: ["spiffe://td/d"], reason: "key \"leaked\""}]`,
			want: `
spiffe://td/*
  + role reader
  + PREDICT on m, n
spiffe://td/a/b
  = everything, as before
spiffe://td/c/*
  - blocked (blocked[0]: key \"leaked\")
spiffe://td/d
  + blocked (blocked[0]: key \"leaked\")
  = PREDICT on m, n: none, as before`,
		},
		{
			name: "conditions and users, in any order",
			before: `
roles:
  - {name: reader, rules: [{actions: [PREDICT], models: [m], when: rows <= 10}, {actions: [DESCRIBE], models: [m]}], LIMITS}
  - {name: other, rules: [{actions: [PREDICT], models: [n]}], LIMITS}
bindings:
  - {role: reader, callers: ["spiffe://td/a"], user: {issuer: "https://idp", groups: [x, w]}}
  - {role: other, callers: ["spiffe://td/a"]}`,
			after: `
roles:
  - {name: reader, rules: [{actions: [PREDICT], models: [m], when: rows <= 20}, {actions: [DESCRIBE], models: [m]}], LIMITS}
  - {name: other, rules: [{actions: [PREDICT], models: [n], when: rows <= 20}], LIMITS}
bindings:
  - {role: other, callers: ["spiffe://td/a"]}
  - {role: reader, callers: ["spiffe://td/a"], user: {issuer: "https://idp", groups: [w, x]}}`,
			want: `
spiffe://td/a
  ~ PREDICT on m: for users of issuer "https://idp", groups any of "w", "x" when "rows <= 10" → for users of issuer "https://idp", groups any of "w", "x" when "rows <= 20"
  ~ PREDICT on n: always → when "rows <= 20"`,
		},
		{
			name: "a condition that another rule makes idle",
			before: `
roles: [{name: reader, rules: [{actions: [PREDICT], models: ["*"]}], LIMITS}]
bindings: [{role: reader, callers: ["spiffe://td/a"]}]`,
			after: `
roles: [{name: reader, rules: [{actions: [PREDICT], models: ["*"]}, {actions: [PREDICT], models: [m], when: rows <= 1}], LIMITS}]
bindings: [{role: reader, callers: ["spiffe://td/a"]}, {role: reader, callers: ["spiffe://td/*"], user: {issuer: i}}]`,
			want: `
spiffe://td/*
  + role reader for users of issuer "i"
  + PREDICT on *: for users of issuer "i"
spiffe://td/a
  = PREDICT on *: always, as before`,
		},
		{
			name: "conditions that the same users or the same condition make idle",
			before: `
roles: [{name: reader, rules: [{actions: [PREDICT], models: [m]}, {actions: [DESCRIBE], models: [m], when: rows <= 1}], LIMITS}]
bindings:
  - {role: reader, callers: ["spiffe://td/a"], user: {issuer: i}}
  - {role: reader, callers: ["spiffe://td/b"]}`,
			after: `
roles:
  - {name: reader, rules: [{actions: [PREDICT], models: [m]}, {actions: [DESCRIBE, PREDICT], models: [m], when: rows <= 1}], LIMITS}
  - {name: twin, rules: [{actions: [DESCRIBE], models: [m], when: rows <= 1}], LIMITS}
bindings:
  - {role: reader, callers: ["spiffe://td/a"], user: {issuer: i}}
  - {role: reader, callers: ["spiffe://td/b"]}
  - {role: twin, callers: ["spiffe://td/b"], user: {issuer: i}}`,
			want: `
spiffe://td/b
  + role twin for users of issuer "i"
roles
  + twin`,
		},
		{
			name: "a role in the place of another, with other limits",
			before: `
roles:
  - {name: slow, rules: [{actions: [PREDICT], models: [m]}], LIMITS}
  - {name: gone, rules: [{actions: [INTROSPECT]}], LIMITS}
bindings: [{role: slow, callers: ["spiffe://td/a"]}]`,
			after: `
roles:
  - {name: slow, rules: [{actions: [PREDICT], models: [m]}], limits: {requests_per_second: 2, rows_per_second: 1, max_streams: 1}}
  - {name: fast, rules: [{actions: [PREDICT], models: [m]}], LIMITS}
bindings: [{role: fast, callers: ["spiffe://td/a"]}]`,
			want: `
spiffe://td/a
  + role fast
  - role slow
roles
  + fast
  - gone
  ~ slow: requests_per_second 1 → 2, request_burst 1 → 2`,
		},
		{
			name: "addresses",
			before: `
roles: [{name: reader, rules: [{actions: [PREDICT], models: [m]}], LIMITS}]
blocked: [{addresses: ["10.0.0.0/8", "192.0.2.0/25", "192.0.2.128/25"], reason: lab}]`,
			after: `
roles: [{name: reader, rules: [{actions: [PREDICT], models: [m]}], LIMITS}]
blocked: [{addresses: ["10.1.0.0/16", "192.0.2.0/24"], reason: lab}, {addresses: ["2001:db8::/32"], reason: guests}]`,
			want: `
addresses
  - blocked 10.0.0.0/8 (blocked[0]: lab)
  = blocked 10.1.0.0/16 (blocked[0]: lab)
  + blocked 2001:db8::/32 (blocked[1]: guests)`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := policy.Compare(parsed(t, tt.before), parsed(t, tt.after))
			var got strings.Builder
			if err := d.WriteText(&got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSpace(tt.want), strings.TrimSpace(got.String())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if d.Empty() != (tt.want == "") {
				t.Errorf("Empty is %v", d.Empty())
			}
		})
	}
}

func TestDiffAsJSON(t *testing.T) {
	before := parsed(t, `
roles: [{name: r, rules: [{actions: [PREDICT], models: [m]}], LIMITS}]
bindings: [{role: r, callers: ["spiffe://td/a"]}]`)
	after := parsed(t, `
roles: [{name: r, rules: [{actions: [INTROSPECT]}], LIMITS}]
bindings: [{role: r, callers: ["spiffe://td/a"]}]`)
	got, err := json.Marshal(policy.Compare(before, after))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"callers":[{"callers":"spiffe://td/a","access":[` +
		`{"change":"lost","actions":["PREDICT"],"models":["m"],"before":"always","after":"none"},` +
		`{"change":"gained","actions":["INTROSPECT"],"before":"none","after":"always"}]}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func parsed(t testing.TB, text string) *policy.Index {
	t.Helper()
	p, err := policy.Parse([]byte(strings.ReplaceAll(text, "LIMITS", limitsOfOne)), "policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ix, err := policy.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// large has n patterns of callers, each with a role of its own on a model of its
// own, and one role that all have on every other model.
func large(t testing.TB, n int, everybody string) *policy.Index {
	var b strings.Builder
	b.WriteString("roles:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {name: r%d, rules: [{actions: [PREDICT, PREDICT_STREAM, DESCRIBE], models: [m-%d]}], LIMITS}\n", i, i)
	}
	fmt.Fprintf(&b, "  - {name: all, rules: [{actions: [PREDICT], models: [%q]}], LIMITS}\nbindings:\n", everybody)
	for i := range n {
		fmt.Fprintf(&b, "  - {role: r%d, callers: [\"spiffe://td/a/w-%d\"]}\n", i, i)
	}
	b.WriteString("  - {role: all, callers: [\"spiffe://td/*\"]}\n")
	return parsed(t, b.String())
}

// BenchmarkDiff compares policies of 2,000 patterns of callers and of models
// each, of which a change concerns every pair.
func BenchmarkDiff(b *testing.B) {
	before, after := large(b, 2000, "m-1*"), large(b, 2000, "m-2*")
	b.ReportAllocs()
	for b.Loop() {
		if err := policy.Compare(before, after).WriteText(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	runtime.KeepAlive(before)
}
