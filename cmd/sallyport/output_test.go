package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

func classifier() *prediction {
	return &prediction{
		model: "tickets", version: 3, digest: "sha256:abc", callIDs: []string{"01JD"}, rows: 2,
		outputs: map[string]*inferencev1.Tensor{
			"label":         {DataType: texts, Shape: []int64{2}, StringValues: []string{"net\x1b[2Jwork", "access, \"all\""}},
			"probabilities": {DataType: float32s, Shape: []int64{2, 2}, FloatValues: []float32{0.25, 0.75, 1e-8, 1}},
			// As many labels as rows: they are not one a row for that.
			"probabilities.labels": {DataType: texts, Shape: []int64{2}, StringValues: []string{"access", "network"}},
			"score":                {DataType: float64s, Shape: []int64{2, 1}, DoubleValues: []float64{math.NaN(), math.Inf(-1)}},
		},
	}
}

// raster has outputs that no row of a table holds.
func raster() *prediction {
	return &prediction{
		model: "m", version: 1, digest: "sha256:abc", callIDs: []string{"a", "b"}, rows: 1,
		outputs: map[string]*inferencev1.Tensor{
			"cube":  {DataType: uint8s, Shape: []int64{1, 2, 2}, Raw: []byte{1, 2, 3, 4}},
			"none":  {DataType: bools, Shape: []int64{0, 3}},
			"total": {DataType: int64s, Int64Values: []int64{-9007199254740993}},
			"x":     {DataType: float32s, Shape: []int64{1, 2}, FloatValues: []float32{0.1, 2}},
		},
	}
}

func TestWritePrediction(t *testing.T) {
	for _, tt := range []struct {
		name       string
		prediction *prediction
		flags      predictFlags
		out, info  string
	}{
		{
			name: "table", prediction: classifier(), flags: predictFlags{output: "table"},
			out: `ROW  label           probabilities[access]  probabilities[network]  score
1    net\x1b[2Jwork  0.25                   0.75                    NaN
2    access, "all"   1e-08                  1                       -Infinity
`,
			info: "tickets version 3, sha256:abc, call id 01JD\n",
		},
		{
			name: "CSV", prediction: classifier(), flags: predictFlags{output: "csv"},
			out: "label,probabilities[access],probabilities[network],score\n" +
				"net\x1b[2Jwork,0.25,0.75,NaN\n" +
				"\"access, \"\"all\"\"\",1e-08,1,-Infinity\n",
			info: "tickets version 3, sha256:abc, call id 01JD\n",
		},
		{
			name: "JSON", prediction: classifier(), flags: predictFlags{output: "json"},
			out: `{"model":"tickets","version":3,"digest":"sha256:abc","call_id":"01JD","outputs":{` +
				`"label":["net\u001b[2Jwork","access, \"all\""],"probabilities":[[0.25,0.75],[1e-08,1]],` +
				`"probabilities.labels":["access","network"],"score":[["NaN"],["-Infinity"]]}}` + "\n",
		},
		{
			name: "table with what is none", prediction: raster(), flags: predictFlags{output: "table"},
			out: `ROW  x[0]  x[1]
1    0.1   2
cube: [[[1,2],[3,4]]]
none: []
total: -9007199254740993
`,
			info: "m version 1, sha256:abc, 2 calls\n",
		},
		{
			name: "JSON of several calls", prediction: raster(), flags: predictFlags{json: true, output: "table"},
			out: `{"model":"m","version":1,"digest":"sha256:abc","call_ids":["a","b"],"outputs":{` +
				`"cube":[[[1,2],[3,4]]],"none":[],"total":-9007199254740993,"x":[[0.1,2]]}}` + "\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, info bytes.Buffer
			if err := tt.prediction.write(&out, &info, tt.flags); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.out, out.String()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.info, info.String()); diff != "" {
				t.Error(diff)
			}
			if (tt.flags.json || tt.flags.output == "json") && !json.Valid(out.Bytes()) {
				t.Error("not JSON")
			}
		})
	}
}

func TestWriteCSVRefusesWhatIsNoTable(t *testing.T) {
	err := raster().writeCSV(new(bytes.Buffer))
	if diff := cmp.Diff(`the outputs are no table ("cube", "none", "total"); choose others with --outputs, or --output json`, errText(err)); diff != "" {
		t.Error(diff)
	}
}

// Raw and typed fields are two forms of the same elements.
func TestElementText(t *testing.T) {
	le := binary.LittleEndian
	for _, tt := range []struct {
		tensor *inferencev1.Tensor
		want   string
	}{
		{&inferencev1.Tensor{DataType: bools, BoolValues: []bool{true, false}}, "[true,false]"},
		{&inferencev1.Tensor{DataType: bools, Raw: []byte{1, 0}}, "[true,false]"},
		{&inferencev1.Tensor{DataType: int8s, Int64Values: []int64{-128, 127}}, "[-128,127]"},
		{&inferencev1.Tensor{DataType: int8s, Raw: []byte{0x80, 0x7f}}, "[-128,127]"},
		{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_INT16, Raw: le.AppendUint16(nil, 0x8000)}, "[-32768]"},
		{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_INT32, Raw: le.AppendUint32(nil, 0x80000000)}, "[-2147483648]"},
		{&inferencev1.Tensor{DataType: int64s, Raw: le.AppendUint64(nil, 1<<63)}, "[-9223372036854775808]"},
		{&inferencev1.Tensor{DataType: int64s, Int64Values: []int64{math.MinInt64}}, "[-9223372036854775808]"},
		{&inferencev1.Tensor{DataType: uint8s, Raw: []byte{255}}, "[255]"},
		{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_UINT16, Raw: le.AppendUint16(nil, 65535)}, "[65535]"},
		{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_UINT32, Raw: le.AppendUint32(nil, math.MaxUint32)}, "[4294967295]"},
		{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_UINT64, Raw: le.AppendUint64(nil, math.MaxUint64)}, "[18446744073709551615]"},
		{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_UINT64, Uint64Values: []uint64{math.MaxUint64}}, "[18446744073709551615]"},
		{&inferencev1.Tensor{DataType: float16s, Raw: le.AppendUint16(nil, 0x3555)}, "[0.33325195]"},
		{&inferencev1.Tensor{DataType: float16s, FloatValues: []float32{0.33325195}}, "[0.33325195]"},
		{&inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_BFLOAT16, Raw: le.AppendUint16(nil, 0x3eab)}, "[0.33398438]"},
		{&inferencev1.Tensor{DataType: float32s, Raw: le.AppendUint32(nil, math.Float32bits(0.1))}, "[0.1]"},
		{&inferencev1.Tensor{DataType: float32s, FloatValues: []float32{float32(math.Inf(1))}}, `["Infinity"]`},
		{&inferencev1.Tensor{DataType: float64s, Raw: le.AppendUint64(nil, math.Float64bits(0.1))}, "[0.1]"},
		{&inferencev1.Tensor{DataType: float64s, DoubleValues: []float64{1e300}}, "[1e+300]"},
		{&inferencev1.Tensor{DataType: texts, StringValues: []string{"NaN", "<a>"}}, "[\"NaN\",\"\\u003ca\\u003e\"]"},
	} {
		tt.tensor.Shape = []int64{int64(tensor.Count(tt.tensor))}
		if err := tensor.Check(tt.tensor); err != nil {
			t.Fatal(err)
		}
		if got := string(tensor.AppendJSON(nil, tt.tensor)); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.tensor, got, tt.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		`plain "text" with \, é and 日本`: `plain "text" with \, é and 日本`,
		"\x1b]0;owned\x07":              `\x1b]0;owned\a`,
		"two\nlines":                    `two\nlines`,
		"\u202egnp.exe":                 `\u202egnp.exe`,
		"\u009b2J":                      `\u009b2J`,
		"bad\xff":                       `bad\xff`,
	} {
		if got := printable(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}
