package audit_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// sameEncoding compares the encoding of a record with that of Protobuf's own.
func sameEncoding(t *testing.T, r *auditv1.Record) {
	t.Helper()
	want, wantErr := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	got, err := audit.MarshalAppend([]byte("before"), r)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("error %v, of Protobuf %v, of %v", err, wantErr, r)
	}
	if err == nil && !bytes.Equal(got, append([]byte("before"), want...)) {
		t.Fatalf("%x\nof Protobuf\n%x\nof %v", got, want, r)
	}
}

// TestMarshal fills every field of the schema, whichever there are.
func TestMarshal(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, p := range []float64{0, 0.1, 0.5, 0.9, 1} {
		for range 2000 {
			r := new(auditv1.Record)
			fill(random, r.ProtoReflect(), p)
			sameEncoding(t, r)
		}
	}
}

// fill sets each field with probability p.
func fill(random *rand.Rand, m protoreflect.Message, p float64) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case random.Float64() >= p:
		case f.IsMap():
			for range random.IntN(4) {
				m.Mutable(f).Map().Set(value(random, f.MapKey()).MapKey(), value(random, f.MapValue()))
			}
		case f.IsList():
			for range random.IntN(4) {
				m.Mutable(f).List().Append(value(random, f))
			}
		case f.Message() != nil:
			fill(random, m.Mutable(f).Message(), p)
		default:
			m.Set(f, value(random, f))
		}
	}
}

func value(random *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	n := random.Uint64() >> random.IntN(64)
	text := []string{"", "a", "spiffe://sallyport.test/clinic/triage", "\xff", string(make([]byte, 200))}[min(random.IntN(40), 4)]
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n % 6))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(text))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text)
	default:
		panic("marshal.go has no field of the kind " + f.Kind().String())
	}
}

func FuzzMarshal(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		r := new(auditv1.Record)
		fill(random, r.ProtoReflect(), 0.5)
		b, _ := proto.Marshal(r)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := new(auditv1.Record)
		if (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, r) == nil {
			sameEncoding(t, r)
		}
	})
}

func BenchmarkMarshal(b *testing.B) {
	r := call(1)
	for name, marshal := range map[string]func([]byte, *auditv1.Record) ([]byte, error){
		"ours":     audit.MarshalAppend,
		"protobuf": func(b []byte, r *auditv1.Record) ([]byte, error) { return proto.MarshalOptions{}.MarshalAppend(b, r) },
	} {
		b.Run(name, func(b *testing.B) {
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = marshal(buf[:0], r)
			}
		})
	}
}
