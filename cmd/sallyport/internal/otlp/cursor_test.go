package otlp_test

import (
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/otlp"
	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

func TestCursorFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cursor")
	if c, err := otlp.LoadCursor(file); err != nil || c != (otlp.Cursor{}) {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, want := range []otlp.Cursor{{Sequence: 1, Record: "aa"}, {Sequence: 2, Record: "bb"}} {
		if err := want.Save(file); err != nil {
			t.Fatal(err)
		}
		got, err := otlp.LoadCursor(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	for _, text := range []string{"", "{}", `{"sequence":3}`, "12"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := otlp.LoadCursor(file); err == nil {
			t.Errorf("%q is taken for a cursor", text)
		}
	}
	if err := (otlp.Cursor{Sequence: 1}).Save(filepath.Join(dir, "missing", "cursor")); err == nil {
		t.Error("saved where there is no folder")
	}
}

func TestResume(t *testing.T) {
	var at []otlp.Cursor // behind each of the records 1 to 3
	c := &collector{}
	address, _ := serve(t, otlp.HTTP, c, "")
	for n := uint64(1); n <= 3; n++ {
		p := pump(sender(t, otlp.HTTP, "http://"+address))
		p.Dealt = func(c otlp.Cursor) error {
			at = append(at, c)
			return nil
		}
		if _, err := p.Run(t.Context(), n, reading(calls(n, n))); err != nil {
			t.Fatal(err)
		}
	}
	other := at[1]
	other.Record = at[0].Record
	for _, tt := range []struct {
		name        string
		cursor      otlp.Cursor
		first, last uint64 // of the log
		want        uint64
		err         string
	}{
		{name: "no cursor", last: 3, want: 1},
		{name: "in the middle", cursor: at[1], first: 1, last: 3, want: 3},
		{name: "at the end", cursor: at[2], first: 1, last: 3, want: 4},
		{name: "another log", cursor: other, first: 1, last: 3, err: "of another log"},
		{name: "a shorter log", cursor: at[2], first: 1, last: 2, err: "the log ends before record 3"},
		{name: "removed meanwhile", cursor: at[1], first: 9, last: 12, want: 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.cursor.Resume(func(from uint64) iter.Seq2[*auditv1.Record, error] { return calls(max(from, tt.first), tt.last) })
			if tt.err == "" && (err != nil || got != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := otlp.RetryAfter(s, now); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}
