package inference_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/inference"
	"github.com/sallyport/sallyport/server/model"
)

// samples has a tensor of every type with its extremes, in typed form, and its
// elements as bytes.
var samples = []struct {
	tensor *inferencev1.Tensor
	raw    []byte
}{
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_BOOL, Shape: []int64{2}, BoolValues: []bool{true, false}}, []byte{1, 0}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_INT8, Shape: []int64{2}, Int64Values: []int64{-128, 127}}, []byte{0x80, 0x7f}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_INT16, Shape: []int64{2}, Int64Values: []int64{-32768, 32767}}, []byte{0, 0x80, 0xff, 0x7f}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_INT32, Shape: []int64{2}, Int64Values: []int64{math.MinInt32, math.MaxInt32}}, []byte{0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0x7f}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_INT64, Shape: []int64{2}, Int64Values: []int64{math.MinInt64, math.MaxInt64}}, []byte{0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_UINT8, Shape: []int64{2}, Uint64Values: []uint64{0, 255}}, []byte{0, 0xff}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_UINT16, Shape: []int64{2}, Uint64Values: []uint64{1, 65535}}, []byte{1, 0, 0xff, 0xff}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_UINT32, Shape: []int64{2}, Uint64Values: []uint64{1, math.MaxUint32}}, []byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_UINT64, Shape: []int64{1}, Uint64Values: []uint64{math.MaxUint64}}, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_FLOAT16, Shape: []int64{2}, FloatValues: []float32{1, -65504}}, []byte{0, 0x3c, 0xff, 0xfb}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_BFLOAT16, Shape: []int64{2}, FloatValues: []float32{1, -2}}, []byte{0x80, 0x3f, 0, 0xc0}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{1, 1}, FloatValues: []float32{1}}, []byte{0, 0, 0x80, 0x3f}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_FLOAT64, DoubleValues: []float64{1}}, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f}},
	{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_STRING, Shape: []int64{3}, StringValues: []string{"", "ä", "x"}}, nil},
}

func TestTensorsOfEveryType(t *testing.T) {
	if len(samples) != len(inferencev1.DataType_name)-1 {
		t.Fatalf("%d samples of %d types", len(samples), len(inferencev1.DataType_name)-1)
	}
	for _, s := range samples {
		t.Run(s.tensor.GetDataType().String(), func(t *testing.T) {
			d, err := inference.DecodeTensor(s.tensor)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.raw, d.Data); diff != "" {
				t.Errorf("bytes (-want +got):\n%s", diff)
			}
			back, err := inference.EncodeTensor(d, false)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.tensor, back, protocmp.Transform()); diff != "" {
				t.Errorf("typed form (-sent +got):\n%s", diff)
			}
			raw, err := inference.EncodeTensor(d, true)
			if err != nil {
				t.Fatal(err)
			}
			again, err := inference.DecodeTensor(raw)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(d, again); diff != "" {
				t.Errorf("raw form (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFloatsAreRoundedToNearestEven(t *testing.T) {
	for _, c := range []struct {
		name string
		dt   inferencev1.DataType
		in   float32
		want float32
	}{
		{"half, tie to even", inferencev1.DataType_DATA_TYPE_FLOAT16, 2049, 2048},
		{"half, up", inferencev1.DataType_DATA_TYPE_FLOAT16, 2051, 2052},
		{"half, overflow", inferencev1.DataType_DATA_TYPE_FLOAT16, 70000, float32(math.Inf(1))},
		{"half, smallest", inferencev1.DataType_DATA_TYPE_FLOAT16, 5.9604645e-08, 5.9604645e-08},
		{"bfloat, tie to even", inferencev1.DataType_DATA_TYPE_BFLOAT16, 257, 256},
		{"bfloat, up", inferencev1.DataType_DATA_TYPE_BFLOAT16, 259, 260},
		{"bfloat, infinity", inferencev1.DataType_DATA_TYPE_BFLOAT16, float32(math.Inf(-1)), float32(math.Inf(-1))},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := inference.DecodeTensor(&inferencev1.Tensor{DataType: c.dt, FloatValues: []float32{c.in}})
			if err != nil {
				t.Fatal(err)
			}
			back, err := inference.EncodeTensor(d, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := back.GetFloatValues()[0]; got != c.want {
				t.Errorf("%v became %v, want %v", c.in, got, c.want)
			}
		})
	}
	for _, dt := range []inferencev1.DataType{inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_BFLOAT16} {
		for _, bits := range []uint32{0x7fc00000, 0x7f800001, 0xffffffff} {
			d, err := inference.DecodeTensor(&inferencev1.Tensor{DataType: dt, FloatValues: []float32{math.Float32frombits(bits)}})
			if err != nil {
				t.Fatal(err)
			}
			back, err := inference.EncodeTensor(d, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := back.GetFloatValues()[0]; got == got {
				t.Errorf("NaN %#x became %v as %s", bits, got, dt)
			}
		}
	}
}

func TestOutputThatIsNotUTF8(t *testing.T) {
	if _, err := inference.EncodeTensor(&model.Tensor{DType: model.String, Shape: []int64{1}, Strings: []string{"\xff"}}, false); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("got %v", err)
	}
}

// FuzzDecodeTensor decodes whatever a caller can send. What is accepted is
// consistent and survives both forms of the answer.
func FuzzDecodeTensor(f *testing.F) {
	for _, s := range samples {
		data, err := proto.Marshal(s.tensor)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p inferencev1.Tensor
		if proto.Unmarshal(data, &p) != nil {
			return
		}
		d, err := inference.DecodeTensor(&p)
		if err != nil {
			return
		}
		if err := d.Validate(); err != nil {
			t.Fatalf("accepted, but %v", err)
		}
		for _, raw := range []bool{true, false} {
			back, err := inference.EncodeTensor(d, raw)
			if err != nil {
				t.Fatal(err)
			}
			again, err := inference.DecodeTensor(back)
			if err != nil {
				t.Fatalf("raw %v: %v", raw, err)
			}
			if len(d.Data) != len(again.Data) || !cmp.Equal(d.Shape, again.Shape) || !cmp.Equal(d.Strings, again.Strings) {
				t.Fatalf("raw %v: %v became %v", raw, d, again)
			}
		}
	})
}
