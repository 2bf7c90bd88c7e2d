package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// sealed is r as a reader of the log gets it.
func sealed(t testing.TB, s *audit.Sealer, r *auditv1.Record) *auditv1.Record {
	t.Helper()
	b, err := s.Seal(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	out := new(auditv1.Record)
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	out.Sequence = 7
	return out
}

func TestSealAndOpen(t *testing.T) {
	k := newKeeper(t)
	s := newSealer(t, k)
	u := newUnsealer(t, k, s)
	broken := record("call-1")
	broken.Model = "breast\xffcancer"
	legible := proto.CloneOf(broken)
	legible.Model = "breast\uFFFDcancer"
	bare := &auditv1.Record{Kind: auditv1.Kind_KIND_EVENT}
	for name, tt := range map[string]struct{ in, want *auditv1.Record }{
		"a call":            {record("call-1"), record("call-1")},
		"no time and no id": {bare, bare},
		"not UTF-8":         {broken, legible},
	} {
		t.Run(name, func(t *testing.T) {
			stored := sealed(t, s, tt.in)
			clear := &auditv1.Record{Sequence: 7, Kind: tt.in.GetKind(), Time: tt.in.GetTime(), CallId: tt.in.GetCallId(), Sealed: stored.GetSealed()}
			if diff := cmp.Diff(clear, stored, protocmp.Transform()); diff != "" {
				t.Errorf("what is stored (-want +got):\n%s", diff)
			}
			if raw, err := proto.Marshal(stored); err != nil || bytes.Contains(raw, []byte("cancer")) || bytes.Contains(raw, []byte("spiffe")) {
				t.Errorf("stored %q, %v", raw, err)
			}
			got, err := u.Open(stored)
			if err != nil {
				t.Fatal(err)
			}
			want := proto.CloneOf(tt.want)
			want.Sequence = 7
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("opened (-want +got):\n%s", diff)
			}
		})
	}
}

// The log appends to what it has: Seal must, too.
func TestSealAppends(t *testing.T) {
	s := newSealer(t, newKeeper(t))
	b, err := s.Seal([]byte("before"), record("call-1"))
	if err != nil || !bytes.HasPrefix(b, []byte("before")) {
		t.Fatalf("%q, %v", b, err)
	}
	if err := proto.Unmarshal(b[len("before"):], new(auditv1.Record)); err != nil {
		t.Error(err)
	}
}

// The same record twice: equal nonces would give the key stream away.
func TestSealIsRandom(t *testing.T) {
	k := newKeeper(t)
	s := newSealer(t, k)
	a, b := sealed(t, s, record("call-1")).GetSealed(), sealed(t, s, record("call-1")).GetSealed()
	if bytes.Equal(a[8:32], b[8:32]) || bytes.Equal(a[32:], b[32:]) {
		t.Error("two sealed parts have the same nonce or ciphertext")
	}
	if other := newSealer(t, k); other.WrappedKey().GetId() == s.WrappedKey().GetId() {
		t.Error("two sealers have the same data key")
	}
}

func TestSealConcurrently(t *testing.T) {
	k := newKeeper(t)
	s := newSealer(t, k)
	u := newUnsealer(t, k, s)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				want := call(1000*i + j)
				got, err := u.Open(sealed(t, s, want))
				if err != nil || got.GetCallId() != want.GetCallId() || got.GetModel() != want.GetModel() {
					t.Errorf("%v, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSealRefuses(t *testing.T) {
	s := newSealer(t, newKeeper(t))
	for _, r := range []*auditv1.Record{
		{Kind: auditv1.Kind_KIND_KEY, WrappedKey: s.WrappedKey()},
		{Kind: auditv1.Kind_KIND_RETENTION},
		sealed(t, s, record("call-1")),
	} {
		if b, err := s.Seal(nil, r); err == nil || len(b) > 0 {
			t.Errorf("%v was sealed", r)
		}
	}
}

func TestNewSealer(t *testing.T) {
	same := func(b []byte) []byte { return append([]byte("wrapped:"), b...) }
	for name, tt := range map[string]struct {
		keeper audit.Keeper
		name   string
		want   string
	}{
		"none":               {nil, "local", "required"},
		"no name":            {newKeeper(t), "", "required"},
		"refuses":            {oddKeeper{bytes.Clone, errDenied}, "hashivault://audit", "have hashivault://audit wrap a data key: permission denied"},
		"does not wrap":      {oddKeeper{same, nil}, "local", "as it was"},
		"loses it":           {oddKeeper{func([]byte) []byte { return make([]byte, 32) }, nil}, "local", "32 bytes, not 33 to"},
		"wraps in very much": {oddKeeper{func([]byte) []byte { return make([]byte, 1<<20) }, nil}, "local", "1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := audit.NewSealer(t.Context(), tt.keeper, tt.name)
			if s != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want %q", s, err, tt.want)
			}
		})
	}
	if _, err := audit.NewSealer(t.Context(), oddKeeper{bytes.Clone, errDenied}, "x"); !errors.Is(err, errDenied) {
		t.Errorf("%v does not wrap the keeper's error", err)
	}
}

// However somebody prints them, keys do not show.
func TestKeysDoNotPrint(t *testing.T) {
	var key []byte // as the sealer has it
	k := oddKeeper{func(b []byte) []byte { key = bytes.Clone(b); return make([]byte, 100) }, nil}
	s := newSealer(t, k)
	u := newUnsealer(t, oddKeeper{func([]byte) []byte { return bytes.Clone(key) }, nil}, s)
	if len(key) != 32 {
		t.Fatalf("a key of %d bytes", len(key))
	}
	var out bytes.Buffer
	for _, v := range []any{s, u, struct{ S any }{s}, struct{ U any }{u}, []any{s, u}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", slog.Any("v", v))
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", slog.Any("v", v))
		_ = json.NewEncoder(&out).Encode(v)
	}
	text := out.String()
	for n := range len(key) - 4 { // any run of its bytes, however it is written
		run := key[n : n+4]
		for _, form := range []string{string(run), fmt.Sprintf("%x", run), strings.Trim(fmt.Sprintf("%d", run), "[]"), strings.Trim(fmt.Sprintf("%#v", run), "[]byte{}")} {
			if strings.Contains(text, form) {
				t.Fatalf("%q of the key is in:\n%s", form, text)
			}
		}
	}
	if !strings.Contains(text, "audit.Sealer of key "+s.WrappedKey().GetId()) {
		t.Errorf("the sealer does not say which key it has:\n%s", text)
	}
}

// What NewSealer hands to the keeper it wipes, whatever the keeper says.
func TestKeyIsWiped(t *testing.T) {
	for _, err := range []error{nil, errDenied} {
		var lent []byte
		_, _ = audit.NewSealer(t.Context(), oddKeeper{func(b []byte) []byte { lent = b; return make([]byte, 100) }, err}, "local")
		if !slices.Equal(lent, make([]byte, 32)) {
			t.Errorf("with error %v the key is still there: %x", err, lent)
		}
	}
}

func TestWrappedKeyIsACopy(t *testing.T) {
	s := newSealer(t, newKeeper(t))
	s.WrappedKey().Ciphertext[0]++
	s.WrappedKey().Id = "x"
	if w := s.WrappedKey(); w.GetId() == "x" || w.GetKeeper() != "local" {
		t.Errorf("%v", w)
	}
}

// BenchmarkSeal is what sealing adds to the encoding of a record.
func BenchmarkSeal(b *testing.B) {
	s := newSealer(b, newKeeper(b))
	r := record("01JABCDEFGHJKMNPQRSTVWXYZ0")
	r.Detail = strings.Repeat("x", 150)
	b.Run("Marshal", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 4096)
		for b.Loop() {
			if _, err := (proto.MarshalOptions{}).MarshalAppend(buf, r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Seal", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 4096)
		for b.Loop() {
			if _, err := s.Seal(buf, r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("SealParallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			buf := make([]byte, 0, 4096)
			for p.Next() {
				if _, err := s.Seal(buf, r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
