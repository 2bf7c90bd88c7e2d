package inference_test

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/inference"
)

// usual are requests as clients send them: the decoder takes them all.
func usual() []proto.Message {
	all := make(map[string]*inferencev1.Tensor, len(samples))
	for i, s := range samples {
		all[fmt.Sprintf("input-%d", i)] = s.tensor
	}
	row := &inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{1, 30}, Raw: make([]byte, 120)}
	messages := []proto.Message{
		&inferencev1.PredictRequest{Model: "breast-cancer", Inputs: map[string]*inferencev1.Tensor{"X": row}},
		&inferencev1.PredictRequest{Model: "A0._-z", Version: 1 << 40, Inputs: all, Outputs: []string{"label", "probabilities"}},
		&inferencev1.PredictRequest{Model: strings.Repeat("a", 128), Inputs: map[string]*inferencev1.Tensor{"ß": {
			DataType: inferencev1.DataType_DATA_TYPE_STRING, Shape: []int64{-1, 0, 1 << 62, 3, 4, 5}, StringValues: []string{"", "é", "x"},
		}}},
	}
	for _, m := range messages {
		m := m.(*inferencev1.PredictRequest)
		messages = append(messages, &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
			Batch: &inferencev1.StreamBatch{Sequence: 7, Inputs: m.GetInputs()},
		}})
	}
	return messages
}

func TestDecodeRequest(t *testing.T) {
	t.Parallel()
	for _, want := range usual() {
		data, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 7, 1 << 14} {
			got := want.ProtoReflect().New().Interface()
			if !inference.DecodeRequest(data, got, piece) {
				t.Errorf("in pieces of %d: not taken: %v", piece, want)
			} else if !proto.Equal(got, want) {
				t.Errorf("in pieces of %d:\ngot  %v\nwant %v", piece, got, want)
			}
		}
	}
}

// TestElementsAreAligned: the elements of the first input can be read where they are,
// however long the names before them.
func TestElementsAreAligned(t *testing.T) {
	t.Parallel()
	for n := range 20 {
		in := map[string]*inferencev1.Tensor{strings.Repeat("X", n+1): {
			DataType: inferencev1.DataType_DATA_TYPE_FLOAT64, Shape: []int64{1000}, Raw: make([]byte, 8000),
		}}
		for _, m := range []proto.Message{
			&inferencev1.PredictRequest{Model: "m", Inputs: in},
			&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
				Batch: &inferencev1.StreamBatch{Sequence: 300, Inputs: in},
			}},
		} {
			data, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if !inference.DecodeRequest(data, m, 4096) {
				t.Fatalf("not taken: %v", m)
			}
			if r, ok := m.(*inferencev1.PredictStreamRequest); ok {
				in = r.GetBatch().GetInputs()
			} else {
				in = m.(*inferencev1.PredictRequest).GetInputs()
			}
			for _, got := range in {
				if at := uintptr(unsafe.Pointer(&got.GetRaw()[0])); at%8 != 0 {
					t.Errorf("a name of %d: at %#x", n+1, at)
				}
			}
		}
	}
}

// TestDecodeRequestDoubts has what the decoder must leave to others: each is wrong
// or unusual in one way.
func TestDecodeRequestDoubts(t *testing.T) {
	t.Parallel()
	tensor := &inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{1}, Raw: make([]byte, 4)}
	with := func(change func(*inferencev1.PredictRequest)) []byte {
		m := &inferencev1.PredictRequest{Model: "m", Inputs: map[string]*inferencev1.Tensor{"X": tensor}}
		change(m)
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	inputs := func(in map[string]*inferencev1.Tensor) []byte {
		return with(func(m *inferencev1.PredictRequest) { m.Inputs = in })
	}
	many := make(map[string]*inferencev1.Tensor)
	for i := range 257 {
		many[fmt.Sprint(i)] = tensor
	}
	good := with(func(*inferencev1.PredictRequest) {})
	doubts := map[string][]byte{
		"nothing":         {},
		"no model":        with(func(m *inferencev1.PredictRequest) { m.Model = "" }),
		"bad model":       with(func(m *inferencev1.PredictRequest) { m.Model = "-m" }),
		"newline":         with(func(m *inferencev1.PredictRequest) { m.Model = "m\n" }),
		"long model":      with(func(m *inferencev1.PredictRequest) { m.Model = strings.Repeat("m", 129) }),
		"negative":        with(func(m *inferencev1.PredictRequest) { m.Version = -1 }),
		"no input":        inputs(nil),
		"many inputs":     inputs(many),
		"unnamed input":   inputs(map[string]*inferencev1.Tensor{"": tensor}),
		"long name":       inputs(map[string]*inferencev1.Tensor{strings.Repeat("n", 257): tensor}),
		"no type":         inputs(map[string]*inferencev1.Tensor{"X": {Shape: []int64{1}}}),
		"unknown type":    inputs(map[string]*inferencev1.Tensor{"X": {DataType: 15}}),
		"dimensions":      inputs(map[string]*inferencev1.Tensor{"X": {DataType: 1, Shape: make([]int64, 17)}}),
		"same output":     with(func(m *inferencev1.PredictRequest) { m.Outputs = []string{"a", "a"} }),
		"unnamed output":  with(func(m *inferencev1.PredictRequest) { m.Outputs = []string{""} }),
		"input twice":     append(inputs(map[string]*inferencev1.Tensor{"X": tensor}), good[3:]...),
		"unknown field":   protowire.AppendVarint(protowire.AppendTag(with(func(*inferencev1.PredictRequest) {}), 9, protowire.VarintType), 1),
		"wrong wire type": protowire.AppendVarint(protowire.AppendTag(with(func(*inferencev1.PredictRequest) {}), 1, protowire.VarintType), 1),
		"cut off":         good[:len(good)-1],
		"no UTF-8":        append([]byte{1<<3 | 2, 1, 0xff}, good[3:]...),
	}
	for name, data := range doubts {
		if inference.DecodeRequest(data, new(inferencev1.PredictRequest), 1<<14) {
			t.Errorf("%s: taken", name)
		}
	}
	open, _ := proto.Marshal(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{Open: &inferencev1.StreamOpen{Model: "m"}}})
	if inference.DecodeRequest(open, new(inferencev1.PredictStreamRequest), 1<<14) {
		t.Error("an opening was taken")
	}
}

// FuzzDecodeRequest: what the decoder takes, Protobuf decodes to the same and the
// validator finds valid.
func FuzzDecodeRequest(f *testing.F) {
	for _, m := range usual() {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, m.ProtoReflect().Descriptor().Name() == "PredictRequest", uint16(1<<14))
	}
	validator, err := protovalidate.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, unary bool, piece uint16) {
		var got, want proto.Message = new(inferencev1.PredictStreamRequest), new(inferencev1.PredictStreamRequest)
		if unary {
			got, want = new(inferencev1.PredictRequest), new(inferencev1.PredictRequest)
		}
		if !inference.DecodeRequest(data, got, int(piece)+1) {
			return
		}
		if err := proto.Unmarshal(data, want); err != nil {
			t.Fatalf("taken, and Protobuf says: %v", err)
		}
		// NaN is not equal to itself; its bytes are.
		a, _ := proto.MarshalOptions{Deterministic: true}.Marshal(got)
		b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if string(a) != string(b) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
		if err := validator.Validate(want); err != nil {
			t.Fatalf("taken, and the validator says: %v", err)
		}
	})
}

func BenchmarkDecodeRequest(b *testing.B) {
	data, err := proto.Marshal(usual()[0])
	if err != nil {
		b.Fatal(err)
	}
	validator, err := protovalidate.New(protovalidate.WithMessages(new(inferencev1.PredictRequest)))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !inference.DecodeRequest(data, new(inferencev1.PredictRequest), 1<<14) {
				b.Fatal("not taken")
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m := new(inferencev1.PredictRequest)
			if proto.Unmarshal(data, m) != nil || validator.Validate(m) != nil {
				b.Fatal("refused")
			}
		}
	})
}
