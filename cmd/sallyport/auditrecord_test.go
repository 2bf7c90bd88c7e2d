package main

import (
	"bytes"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// ownRecords are one record of each kind that the log writes about itself, after
// an event.
func ownRecords() iter.Seq2[*auditv1.Record, error] {
	return func(yield func(*auditv1.Record, error) bool) {
		for i, r := range []*auditv1.Record{
			{Kind: auditv1.Kind_KIND_EVENT, Detail: "started"},
			{Kind: auditv1.Kind_KIND_KEY, WrappedKey: &auditv1.WrappedKey{Id: "0011223344556677", Keeper: "local", Ciphertext: []byte{1}}},
			{Kind: auditv1.Kind_KIND_RETENTION, RemovedThrough: 41},
		} {
			r.Sequence, r.Time = uint64(i+1), timestamppb.New(began)
			if !yield(r, nil) {
				return
			}
		}
	}
}

func TestShowOwnRecords(t *testing.T) {
	for _, tt := range []struct{ kinds, want string }{
		{"", "(event) started"},
		{"key,retention", "(key) records behind it are sealed with key 0011223344556677, which local keeps\n(retention) records 1 to 41 may be missing from now on"},
		{"retention,all", "3 lines"},
	} {
		t.Run("kinds "+tt.kinds, func(t *testing.T) {
			var flags showFlags
			if tt.kinds != "" {
				flags.kinds = strings.Split(tt.kinds, ",")
			}
			if err := flags.resolve(began); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if _, err := showRecords(&out, ownRecords(), &flags, writeRecord); err != nil {
				t.Fatal(err)
			}
			var lines []string
			for line := range strings.Lines(out.String()) {
				_, line, _ = strings.Cut(line, "(")
				action, line, _ := strings.Cut(line, ")")
				_, detail, _ := strings.Cut(line, " -  ")
				lines = append(lines, "("+action+") "+strings.TrimLeft(strings.TrimSpace(detail), "- "))
			}
			got := strings.Join(lines, "\n")
			if tt.want == "3 lines" && len(lines) == 3 {
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a record holds cannot steer a terminal, whatever its kind, and a record
// that could not be opened says so.
func TestRecordLines(t *testing.T) {
	const hostile = "a\x1b[2J\nb"
	for _, r := range []*auditv1.Record{
		{Kind: auditv1.Kind_KIND_CALL, CallId: hostile, Method: hostile, Model: hostile, Reason: hostile},
		{Kind: auditv1.Kind_KIND_HANDSHAKE, PeerAddress: hostile, Detail: hostile},
		{Kind: auditv1.Kind_KIND_EVENT, Detail: hostile},
		{Kind: auditv1.Kind_KIND_KEY, WrappedKey: &auditv1.WrappedKey{Id: hostile, Keeper: hostile}},
		{Kind: auditv1.Kind_KIND_CALL, CallId: hostile, Sealed: []byte{1}},
	} {
		var out bytes.Buffer
		if err := writeRecord(&out, r); err != nil {
			t.Fatal(err)
		}
		line := out.String()
		if strings.Contains(line, "\x1b") || strings.Count(line, "\n") != 1 || !strings.Contains(line, `\x1b`) {
			t.Errorf("%v: %q", r.GetKind(), line)
		}
		if sealed := strings.Contains(line, "sealed: its key is needed"); sealed != (len(r.GetSealed()) > 0) {
			t.Errorf("says that it is sealed: %v: %q", sealed, line)
		}
	}
}
