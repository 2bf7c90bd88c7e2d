package audit_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

func TestOpenFindsTampering(t *testing.T) {
	k := newKeeper(t)
	s := newSealer(t, k)
	second := newSealer(t, k)
	u := newUnsealer(t, k, s, second)
	otherKey := sealed(t, second, record("call-1")).GetSealed()
	other := sealed(t, s, record("call-2")).GetSealed()
	const (
		unauthentic = "authentication failed"
		size        = "the sealed part has "
		inClear     = "fields in clear"
	)
	for name, tt := range map[string]struct {
		change func(*auditv1.Record)
		want   string
	}{
		"kind":              {func(r *auditv1.Record) { r.Kind = auditv1.Kind_KIND_EVENT }, unauthentic},
		"seconds":           {func(r *auditv1.Record) { r.Time.Seconds++ }, unauthentic},
		"nanoseconds":       {func(r *auditv1.Record) { r.Time.Nanos++ }, unauthentic},
		"no time":           {func(r *auditv1.Record) { r.Time = nil }, unauthentic},
		"call id":           {func(r *auditv1.Record) { r.CallId = "call-3" }, unauthentic},
		"no call id":        {func(r *auditv1.Record) { r.CallId = "" }, unauthentic},
		"another's part":    {func(r *auditv1.Record) { r.Sealed = other }, unauthentic},
		"another's key":     {func(r *auditv1.Record) { copy(r.Sealed, otherKey[:8]) }, unauthentic},
		"nonce":             {func(r *auditv1.Record) { r.Sealed[8] ^= 1 }, unauthentic},
		"ciphertext":        {func(r *auditv1.Record) { r.Sealed[40] ^= 1 }, unauthentic},
		"tag":               {func(r *auditv1.Record) { r.Sealed[len(r.GetSealed())-1] ^= 1 }, unauthentic},
		"cut off":           {func(r *auditv1.Record) { r.Sealed = r.GetSealed()[:len(r.GetSealed())-1] }, unauthentic},
		"grown":             {func(r *auditv1.Record) { r.Sealed = append(r.GetSealed(), 0) }, unauthentic},
		"key id only":       {func(r *auditv1.Record) { r.Sealed = r.GetSealed()[:8] }, size},
		"nonce cut off":     {func(r *auditv1.Record) { r.Sealed = r.GetSealed()[:20] }, size},
		"no ciphertext":     {func(r *auditv1.Record) { r.Sealed = r.GetSealed()[:32] }, size},
		"one byte":          {func(r *auditv1.Record) { r.Sealed = []byte{1} }, size},
		"huge":              {func(r *auditv1.Record) { r.Sealed = append(r.GetSealed(), make([]byte, audit.MaxRecord)...) }, size},
		"a field in clear":  {func(r *auditv1.Record) { r.Model = "digits" }, inClear},
		"a caller in clear": {func(r *auditv1.Record) { r.Caller = &auditv1.Caller{SpiffeId: "spiffe://x/y"} }, inClear},
		"an unknown field": {func(r *auditv1.Record) {
			r.ProtoReflect().SetUnknown(protowire.AppendTag(nil, 900, protowire.VarintType))
		}, inClear},
		"of the log's own": {func(r *auditv1.Record) { r.Kind = auditv1.Kind_KIND_RETENTION }, "log's own"},
	} {
		t.Run(name, func(t *testing.T) {
			r := sealed(t, s, record("call-1"))
			tt.change(r)
			got, err := u.Open(r)
			if fault, ok := errors.AsType[*audit.SealError](err); !ok || fault.Sequence != 7 || got != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want a SealError with %q", got, err, tt.want)
			}
		})
	}
}

// A key that was never learnt is no tampering.
func TestOpenWithoutTheKey(t *testing.T) {
	k := newKeeper(t)
	r := sealed(t, newSealer(t, k), record("call-1"))
	got, err := newUnsealer(t, k, newSealer(t, k)).Open(r)
	if missing, ok := errors.AsType[*audit.KeyError](err); !ok || missing.Err != nil || got != nil || !strings.Contains(err.Error(), "from its beginning") {
		t.Errorf("%v, %v; want a KeyError", got, err)
	}
}

// Logs are kept for years: what was sealed by format 1 must always open.
func TestOpenFormat1(t *testing.T) {
	key := oddKeeper{func([]byte) []byte { return bytes.Repeat([]byte{7}, 32) }, nil}
	u := audit.NewUnsealer(key)
	if err := u.Learn(t.Context(), &auditv1.WrappedKey{Id: "4bb06f8e4e3a7715", Keeper: "local", Ciphertext: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	part, err := hex.DecodeString("" +
		"4bb06f8e4e3a771536205bce2bd69b6c85e0be19e49fae4c14c926df28895aa3866b291d2e594b0b8a0f4de47c6327bf9dbfcc5dceb46c7d592cd3e088ff05a2" +
		"1cd06dbc79499c353cf70e301696cb259d07e294bebe3f838dc3dd5eaf0c3c2196f2c6d5a53b218903e931b3c6f055798d26d2bb580d68d01242b3b343dd9c18" +
		"c34ff9afc931e91a67b4b9597054fd0330348ea61daabfd38bd11d85d212fb3647dda83669fcbea4fdde5d6b44608db8d10fb025376259b32e31caa6508ab8db" +
		"fb8e75f6daed32cc2ea54e5110655e363f")
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.Open(&auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.New(epoch), CallId: "call-1", Sealed: part})
	if diff := cmp.Diff(record("call-1"), got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// Of who has the key, too, nothing else is taken than what Seal makes.
func TestOpenFindsForgeriesUnderTheKey(t *testing.T) {
	k := newKeeper(t)
	s := newSealer(t, k)
	u := newUnsealer(t, k, s)
	encoded := func(r *auditv1.Record) []byte {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	later := record("call-1")
	later.Time = timestamppb.New(epoch.Add(1))
	for name, tt := range map[string]struct {
		plain []byte
		want  string
	}{
		"another call within":   {encoded(record("call-2")), "differ"},
		"another time within":   {encoded(later), "differ"},
		"nothing within":        {nil, "differ"},
		"no record within":      {[]byte("\xff\xff\xff"), "no record"},
		"sealed within":         {encoded(sealed(t, s, record("call-1"))), "itself sealed"},
		"what Seal would write": {encoded(record("call-1")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := &auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.New(epoch), CallId: "call-1"}
			audit.SealPlain(s, r, tt.plain)
			got, err := u.Open(r)
			if tt.want == "" {
				if err != nil || got.GetModel() != record("").GetModel() {
					t.Errorf("%v, %v", got, err)
				}
				return
			}
			if _, ok := errors.AsType[*audit.SealError](err); !ok || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want a SealError with %q", got, err, tt.want)
			}
		})
	}
}

func TestOpenOfOneInClear(t *testing.T) {
	r := record("call-1")
	if got, err := audit.NewUnsealer(newKeeper(t)).Open(r); err != nil || got != r {
		t.Errorf("%v, %v", got, err)
	}
}

func TestLearn(t *testing.T) {
	k := newKeeper(t)
	s := newSealer(t, k)
	good := s.WrappedKey()
	with := func(change func(*auditv1.WrappedKey)) *auditv1.WrappedKey {
		w := proto.CloneOf(good)
		change(w)
		return w
	}
	id := func(id string) *auditv1.WrappedKey { return with(func(w *auditv1.WrappedKey) { w.Id = id }) }
	for name, tt := range map[string]struct {
		keeper audit.Keeper
		key    *auditv1.WrappedKey
		want   string
	}{
		"opens":             {k, good, ""},
		"another keeper":    {newKeeper(t), good, good.GetId() + ` was wrapped by "local", and the key given does not open it: `},
		"what to do":        {newKeeper(t), good, "give the key that audit.encryption named"},
		"may not":           {oddKeeper{bytes.Clone, errDenied}, good, "permission denied"},
		"another key's id":  {k, id("0123456789abcdef"), "is key " + good.GetId()},
		"no id":             {k, id(""), "16 hexadecimal digits"},
		"a long id":         {k, id(strings.Repeat("ab", 1<<18)), "16 hexadecimal digits"},
		"capitals":          {k, id(strings.ToUpper("abcdefabcdefabcd")), "16 hexadecimal digits"},
		"empty":             {k, with(func(w *auditv1.WrappedKey) { w.Ciphertext = nil }), "0 bytes"},
		"huge":              {k, with(func(w *auditv1.WrappedKey) { w.Ciphertext = make([]byte, 1<<20) }), "1048576 bytes"},
		"changed":           {k, with(func(w *auditv1.WrappedKey) { w.Ciphertext[0] ^= 1 }), "authentication failed"},
		"short key":         {oddKeeper{func([]byte) []byte { return make([]byte, 16) }, nil}, good, "16 bytes"},
		"none":              {k, nil, "16 hexadecimal digits"},
		"keeper of a novel": {newKeeper(t), with(func(w *auditv1.WrappedKey) { w.Keeper = strings.Repeat("\x1b", 1<<20) }), "does not open it"},
	} {
		t.Run(name, func(t *testing.T) {
			err := audit.NewUnsealer(tt.keeper).Learn(t.Context(), tt.key)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if _, ok := errors.AsType[*audit.KeyError](err); !ok || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 2000 || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%.2000v; want a KeyError with %q", err, tt.want)
			}
		})
	}
}

// A keeper may be far away and count what it is asked.
func TestLearnAsksOnce(t *testing.T) {
	k, stranger := newKeeper(t), newKeeper(t)
	s := newSealer(t, k)
	for _, asked := range []*keeper{k, stranger} {
		u := audit.NewUnsealer(asked)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := u.Learn(ended, s.WrappedKey()); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
		for range 3 {
			if err := u.Learn(t.Context(), s.WrappedKey()); (err == nil) != (asked == k) {
				t.Error(err)
			}
		}
		if got := asked.asked.Load(); got != 2 { // the one that was cancelled says nothing about the key
			t.Errorf("asked %d times", got)
		}
	}
}

// FuzzOpen opens what it decodes from arbitrary bytes. Without the key nothing is
// accepted that was not sealed: neither a change nor something new.
func FuzzOpen(f *testing.F) {
	k := newKeeper(f)
	s := newSealer(f, k)
	u := newUnsealer(f, k, s)
	whole, err := s.Seal(nil, record("call-1"))
	if err != nil {
		f.Fatal(err)
	}
	nested, _ := proto.Marshal(&auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Sealed: whole})
	for _, b := range [][]byte{whole, whole[:len(whole)-1], whole[:40], nested, append(whole[:len(whole):len(whole)], whole...), {0x08, 0x01}, nil} {
		f.Add(b)
	}
	original := new(auditv1.Record)
	if err := proto.Unmarshal(whole, original); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := new(auditv1.Record)
		if proto.Unmarshal(b, r) != nil {
			return
		}
		got, err := u.Open(r)
		switch {
		case err != nil:
			_, tampered := errors.AsType[*audit.SealError](err)
			_, missing := errors.AsType[*audit.KeyError](err)
			if got != nil || !tampered && !missing {
				t.Fatalf("%v, %v", got, err)
			}
		case len(r.GetSealed()) == 0:
			if got != r {
				t.Fatalf("%v became %v", r, got)
			}
		default:
			want := proto.CloneOf(original)
			want.Sequence = r.GetSequence()
			if !proto.Equal(r, want) {
				t.Fatalf("opened what was never sealed: %v", r)
			}
		}
	})
}

// FuzzOpenPlain has the key, and seals arbitrary bytes with it.
func FuzzOpenPlain(f *testing.F) {
	k := newKeeper(f)
	s := newSealer(f, k)
	u := newUnsealer(f, k, s)
	whole, err := proto.Marshal(record("call-1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte("\x9a\x02\x01x"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		r := &auditv1.Record{Sequence: 7, Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.New(epoch), CallId: "call-1"}
		audit.SealPlain(s, r, plain)
		got, err := u.Open(r)
		if err != nil {
			if _, ok := errors.AsType[*audit.SealError](err); !ok || got != nil {
				t.Fatalf("%v, %v", got, err)
			}
			return
		}
		if got.GetSequence() != 7 || got.GetCallId() != "call-1" || got.GetKind() != auditv1.Kind_KIND_CALL || len(got.GetSealed()) > 0 {
			t.Fatalf("opened %v", got)
		}
	})
}
