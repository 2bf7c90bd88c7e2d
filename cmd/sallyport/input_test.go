package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

const (
	float32s = inferencev1.DataType_DATA_TYPE_FLOAT32
	float64s = inferencev1.DataType_DATA_TYPE_FLOAT64
	float16s = inferencev1.DataType_DATA_TYPE_FLOAT16
	int8s    = inferencev1.DataType_DATA_TYPE_INT8
	int64s   = inferencev1.DataType_DATA_TYPE_INT64
	uint8s   = inferencev1.DataType_DATA_TYPE_UINT8
	bools    = inferencev1.DataType_DATA_TYPE_BOOL
	texts    = inferencev1.DataType_DATA_TYPE_STRING
)

func spec(name string, d inferencev1.DataType, shape []int64, columns ...string) *inferencev1.TensorSpec {
	return &inferencev1.TensorSpec{Name: name, DataType: d, Shape: shape, Columns: columns}
}

// Signatures that the tests read input for.
var (
	named    = []*inferencev1.TensorSpec{spec("features", float32s, []int64{-1, 2}, "a", "b")}
	unnamed  = []*inferencev1.TensorSpec{spec("x", float64s, []int64{-1, 2})}
	anyWide  = []*inferencev1.TensorSpec{spec("x", int64s, []int64{-1, -1})}
	text     = []*inferencev1.TensorSpec{spec("text", texts, []int64{-1, 1})}
	several  = []*inferencev1.TensorSpec{spec("age", int8s, []int64{-1, 1}), spec("smokes", bools, []int64{-1}), spec("name", texts, []int64{-1, 1})}
	image    = []*inferencev1.TensorSpec{spec("image", uint8s, []int64{-1, 2, 2})}
	rankless = []*inferencev1.TensorSpec{spec("x", float32s, nil)}
	half     = []*inferencev1.TensorSpec{spec("x", float16s, []int64{-1})}
)

// plain is a tensor as a test reads it: its shape and its elements as text.
func plain(tensors map[string]*inferencev1.Tensor) map[string]string {
	out := make(map[string]string)
	for name, t := range tensors {
		if err := tensor.Check(t); err != nil {
			out[name] = err.Error()
			continue
		}
		out[name] = fmt.Sprint(tensor.TypeName(t.GetDataType()), t.GetShape(), string(tensor.AppendJSON(nil, t)))
	}
	return out
}

func TestParseInput(t *testing.T) {
	for _, tt := range []struct {
		name   string
		format string
		data   string
		specs  []*inferencev1.TensorSpec
		ignore []string
		want   map[string]string
		rows   int
	}{
		{
			name: "columns in any order", format: "csv", specs: named, rows: 2,
			data: "b,label,a\n2,yes,1\n4,no,3\n",
			want: map[string]string{"features": "FLOAT32[2 2][[1,2],[3,4]]"},
		},
		{
			name: "ignored columns, byte order mark, spaces, carriage returns", format: "csv", specs: named, rows: 1, ignore: []string{"id", "note"},
			data: "\ufeffid, a ,b,note\r\n7, 1.5 ,-2e-3,\"x, y\"\r\n",
			want: map[string]string{"features": "FLOAT32[1 2][[1.5,-0.002]]"},
		},
		{
			name: "not a number is a number", format: "csv", specs: named, rows: 1,
			data: "a,b\nNaN,-Inf\n",
			want: map[string]string{"features": `FLOAT32[1 2][["NaN","-Infinity"]]`},
		},
		{
			name: "columns by their order", format: "csv", specs: unnamed, rows: 1,
			data: "u,label,v\n1,0,0.1\n",
			want: map[string]string{"x": "FLOAT64[1 2][[1,0.1]]"},
		},
		{
			name: "as many columns as there are", format: "csv", specs: anyWide, rows: 1,
			data: "u,v,w\n1,2,9007199254740993\n",
			want: map[string]string{"x": "INT64[1 3][[1,2,9007199254740993]]"},
		},
		{
			name: "text", format: "csv", specs: text, rows: 2,
			data: "text,label\n\"one, two\nthree\",x\n,y\n",
			want: map[string]string{"text": `STRING[2 1][["one, two\nthree"],[""]]`},
		},
		{
			name: "an input that is called label", format: "csv", rows: 1,
			specs: []*inferencev1.TensorSpec{spec("label", int64s, []int64{-1})},
			data:  "label\n5\n",
			want:  map[string]string{"label": "INT64[1][5]"},
		},
		{
			name: "several inputs", format: "csv", specs: several, rows: 2,
			data: "name,age,smokes\nAda,36,true\nBob,-7,0\n",
			want: map[string]string{"age": "INT8[2 1][[36],[-7]]", "smokes": "BOOL[2][true,false]", "name": `STRING[2 1][["Ada"],["Bob"]]`},
		},
		{
			name: "half precision", format: "csv", specs: half, rows: 1,
			data: "x\n0.5\n",
			want: map[string]string{"x": "FLOAT16[1][0.5]"},
		},
		{
			name: "nested arrays under inputs", format: "json", specs: named, rows: 2,
			data: `{"inputs": {"features": [[1, 2.5], [3, "NaN"]]}}`,
			want: map[string]string{"features": `FLOAT32[2 2][[1,2.5],[3,"NaN"]]`},
		},
		{
			name: "nested arrays by name", format: "json", specs: image, rows: 1,
			data: ` {"image": [ [[1,2],[3,255]] ] } `,
			want: map[string]string{"image": "UINT8[1 2 2][[[1,2],[3,255]]]"},
		},
		{
			name: "an input that is called inputs", format: "json", rows: 1,
			specs: []*inferencev1.TensorSpec{spec("inputs", int64s, []int64{-1})},
			data:  `{"inputs": [5]}`,
			want:  map[string]string{"inputs": "INT64[1][5]"},
		},
		{
			name: "a vector for a column", format: "json", specs: text, rows: 2,
			data: `{"text": ["a", "b"]}`,
			want: map[string]string{"text": `STRING[2 1][["a"],["b"]]`},
		},
		{
			name: "a scalar", format: "json", specs: rankless, rows: 0,
			data: `{"x": 2}`,
			want: map[string]string{"x": "FLOAT32[]2"},
		},
		{
			name: "rows", format: "json", specs: named, rows: 2,
			data: `[{"a": 1, "b": 2, "label": "x"}, {"b": 4, "a": 3}]`,
			want: map[string]string{"features": "FLOAT32[2 2][[1,2],[3,4]]"},
		},
		{
			name: "rows with ignored columns", format: "json", specs: named, rows: 1, ignore: []string{"id"},
			data: `[{"id": {"any": ["thing"]}, "a": 1, "b": 2}]`,
			want: map[string]string{"features": "FLOAT32[1 2][[1,2]]"},
		},
		{
			name: "one row", format: "json", specs: text, rows: 1,
			data: `{"text": "help"}`,
			want: map[string]string{"text": `STRING[1 1][["help"]]`},
		},
		{
			name: "one row of several inputs", format: "json", specs: several, rows: 1,
			data: `{"age": 36, "smokes": true, "name": "Ada"}`,
			want: map[string]string{"age": "INT8[1 1][[36]]", "smokes": "BOOL[1][true]", "name": `STRING[1 1][["Ada"]]`},
		},
		{
			name: "rows of whole inputs", format: "json", specs: image, rows: 2,
			data: `[{"image": [[1,2],[3,4]]}, {"image": [[5,6],[7,8]]}]`,
			want: map[string]string{"image": "UINT8[2 2 2][[[1,2],[3,4]],[[5,6],[7,8]]]"},
		},
		{
			name: "rows of a whole input whose columns have names", format: "json", specs: named, rows: 1,
			data: `[{"features": [1, 2]}]`,
			want: map[string]string{"features": "FLOAT32[1 2][[1,2]]"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseInput(tt.format, []byte(tt.data), tt.specs, tt.ignore)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, plain(got.inputs)); diff != "" {
				t.Error(diff)
			}
			if got.rows != tt.rows {
				t.Errorf("%d rows, want %d", got.rows, tt.rows)
			}
		})
	}
}

func TestParseInputRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		format string
		data   string
		specs  []*inferencev1.TensorSpec
		want   string
	}{
		{"empty CSV", "csv", "", named, "the input is empty; its first line must name the columns"},
		{"only a header", "csv", "a,b\n", named, "there are no rows below the first line"},
		{"missing column", "csv", "a,label\n1,2\n", named, `the first line lacks columns of input "features": "b"`},
		{"unknown column", "csv", "a,b,id\n1,2,3\n", named, `the model has no such columns: "id"; leave them out with --ignore`},
		{"column twice", "csv", "a,b,a\n1,2,3\n", named, `the first line names column "a" twice`},
		{"not a number", "csv", "a,b\n1,2\n3,four\n", named, `line 3, column "b": expected a number (FLOAT32), got "four"`},
		{"line after a cell of two lines", "csv", "text,n\n\"x\ny\",1\nz,k\n", append(text, spec("n", int64s, []int64{-1})), `line 4, column "n": expected an integer (INT64), got "k"`},
		{"empty cell", "csv", "a,b\n1,\n", named, `line 2, column "b": empty, but FLOAT32 is expected; a missing number is written NaN`},
		{"too large", "csv", "a,b\n1,1e39\n", named, "1e39 does not fit FLOAT32"},
		{"integer out of range", "csv", "name,age,smokes\nA,128,true\n", several, `line 2, column "age": 128 does not fit INT8`},
		{"fraction for an integer", "csv", "u\n1.5\n", anyWide, "expected an integer (INT64)"},
		{"not a truth", "csv", "name,age,smokes\nA,1,maybe\n", several, `expected true or false, got "maybe"`},
		{"not UTF-8", "csv", "text\n\xff\n", text, "not valid UTF-8"},
		{"short line", "csv", "a,b\n1\n", named, "wrong number of fields"},
		{"no header", "csv", "1,2\n3,4\n", unnamed, "the first line must name the columns, but has only numbers"},
		{"too few columns", "csv", "u,label\n3,4\n", unnamed, `input "x" wants 2 columns, the first line has 1 besides those ignored`},
		{"no table", "csv", "image\n1\n", image, `input "image" of shape [N, 2, 2] cannot be read from a table; send JSON`},

		{"empty JSON", "json", " \n", named, "the input is empty"},
		{"not JSON", "json", "{\n\"features\": [[1,\n2,]]}", named, "line 3: not JSON: invalid character ']'"},
		{"cut off", "json", `{"features": [[1,`, named, "line 1: not JSON: unexpected end of JSON input"},
		{"more behind", "json", `{"features": [[1,2]]} {}`, named, "not JSON: invalid character '{' after top-level value"},
		{"a number", "json", "3", named, "expected an object or a list of rows"},
		{"string in an array", "json", `{"inputs": {"features": [[1,2],[3,"four"]]}}`, named, `inputs.features[1][1]: expected a number (FLOAT32), got the string "four"`},
		{"null", "json", `{"features": [[1,null]]}`, named, `features[0][1]: expected a number (FLOAT32), got null; a missing number is written "NaN"`},
		{"number for text", "json", `{"text": [[1]]}`, text, "text[0][0]: expected a string, got 1"},
		{"number for truth", "json", `[{"age": 1, "smokes": 1, "name": "A"}]`, several, "[0].smokes: expected true or false, got 1"},
		{"text for truth", "json", `[{"age": 1, "smokes": "true", "name": "A"}]`, several, `[0].smokes: expected true or false, got the string "true"`},
		{"NaN for an integer", "json", `[{"age": "NaN", "smokes": true, "name": "A"}]`, several, `[0].age: expected an integer (INT8), got the string "NaN"`},
		{"object in an array", "json", `{"features": [[1,{}]]}`, named, "features[0][1]: expected an array, got an object"},
		{"ragged", "json", `{"features": [[1,2],[3]]}`, named, "features[1]: has 1 elements, those before it 2"},
		{"too deep", "json", `{"features": [[1,2],[3,[4]]]}`, named, "features[1][1]: expected a number (FLOAT32), got an array"},
		{"not deep enough", "json", `{"features": [[1,2],3]}`, named, "features[1]: expected an array, as beside it"},
		{"element beside an empty array", "json", `{"features": [[],3]}`, named, "features[1]: expected an array, as beside it"},
		{"far too deep", "json", `{"features": ` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`, named, "more than 16 dimensions"},
		{"wrong shape", "json", `{"features": [[1,2,3]]}`, named, "features: has shape [1, 3], the model wants [N, 2]"},
		{"wrong rank", "json", `{"features": [1,2]}`, named, "features: has shape [2], the model wants [N, 2]"},
		{"no rows", "json", `{"text": []}`, text, "text has no rows"},
		{"unknown input", "json", `{"feature": [[1,2]]}`, named, `the model has no such inputs: "feature"; it has "features"`},
		{"missing input", "json", `{"age": [1], "smokes": [true]}`, several, `inputs are missing: "name"`},
		{"input twice", "json", `{"features": [[1,2]], "features": [[3,4]]}`, named, `"features" comes twice`},
		{"something beside inputs", "json", `{"inputs": {"features": [[1,2]]}, "model": "x"}`, named, `beside "inputs" there must be nothing else`},
		{"rows that disagree", "json", `{"age": [1,2], "smokes": [true], "name": ["A","B"]}`, several, "smokes has 1 rows, but age has 2"},
		{"no rows in the list", "json", `[]`, named, "the list has no rows"},
		{"a row that is none", "json", `[{"a": 1, "b": 2}, 3]`, named, "[1]: expected an object"},
		{"row without a column", "json", `[{"a": 1}]`, named, `[0]: columns are missing: "b"`},
		{"row with an unknown column", "json", `[{"a": 1, "b": 2, "id": 1}]`, named, `[0]: the model has no such columns: "id"; leave them out with --ignore`},
		{"row with a column twice", "json", `[{"a": 1, "b": 2, "a": 3}]`, named, `[0]: "a" comes twice`},
		{"array in a row", "json", `[{"a": [1, 2], "b": 2}]`, named, "[0].a: expected a number (FLOAT32), got an array"},
		{"rows of two shapes", "json", `[{"image": [[1,2],[3,4]]}, {"image": [[1],[2]]}]`, image, "[1].image: has shape [2, 1], the rows before it [2, 2]"},
		{"row without a whole input", "json", `[{"img": 1}]`, image, `[0]: no value for input "image"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := parseInput(tt.format, []byte(tt.data), tt.specs, nil)
			if err == nil {
				t.Fatalf("accepted: %v", plain(d.inputs))
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q", err, tt.want)
			}
		})
	}
}

// FLOAT32 goes as bytes, which reach the model without being converted.
func TestFloatsAreRaw(t *testing.T) {
	got, err := parseInput("csv", []byte("a,b\n1,0.1\n"), named, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &inferencev1.Tensor{DataType: float32s, Shape: []int64{1, 2}, Raw: []byte{0, 0, 0x80, 0x3f, 0xcd, 0xcc, 0xcc, 0x3d}}
	if diff := cmp.Diff(want, got.inputs["features"], protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if math.Float32bits(0.1) != 0x3dcccccd {
		t.Error("the test is wrong")
	}
}

func TestReadInput(t *testing.T) {
	endless := strings.NewReader(strings.Repeat("x", maxInput+1))
	if _, err := readInput("-", endless); err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("too much: %v", err)
	}
	if data, err := readInput("-", strings.NewReader("x")); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	missing := filepath.Join(t.TempDir(), "missing.csv")
	if _, err := readInput(missing, nil); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing file: %v", err)
	}
}

func TestFormatOf(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"x.csv", "{", "csv"},
		{"x.JSON", "a,b", "json"},
		{"-", " \n[1]", "json"},
		{"-", "{}", "json"},
		{"rows.txt", "a,b\n", "csv"},
		{"-", "", "csv"},
	} {
		if got := formatOf(tt.name, []byte(tt.data)); got != tt.want {
			t.Errorf("%s with %q: %s", tt.name, tt.data, got)
		}
	}
}

// Whatever the bytes, there are tensors that fit their shapes or an error.
func FuzzParseInput(f *testing.F) {
	signatures := [][]*inferencev1.TensorSpec{named, unnamed, anyWide, text, several, image, rankless, half}
	for i, seed := range []string{
		"a,b\n1,2\n", "u,v\n1,2\n", `{"x": [[1,2],[3,4]]}`, "text\nhello\n", `[{"age": 1, "smokes": true, "name": "A"}]`,
		`{"inputs": {"image": [[[1,2],[3,4]]]}}`, `{"x": 1}`, `{"x": ["NaN", 1]}`,
	} {
		f.Add(uint8(i), strings.HasPrefix(seed, "{") || strings.HasPrefix(seed, "["), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, signature uint8, isJSON bool, data []byte) {
		specs := signatures[int(signature)%len(signatures)]
		format := "csv"
		if isJSON {
			format = "json"
		}
		d, err := parseInput(format, data, specs, []string{"id"})
		if err != nil {
			return
		}
		for _, s := range specs {
			in := d.inputs[s.GetName()]
			if err := tensor.Check(in); err != nil {
				t.Errorf("input %s: %v", s.GetName(), err)
			}
			if in.GetDataType() != s.GetDataType() {
				t.Errorf("input %s has type %v", s.GetName(), in.GetDataType())
			}
			if _, err := tensor.FitShape(in.GetShape(), s.GetShape()); err != nil {
				t.Errorf("input %s: %v", s.GetName(), err)
			}
		}
		var parts []map[string]*inferencev1.Tensor
		for _, span := range d.spans(2) {
			parts = append(parts, span.inputs(d))
		}
		whole := prediction{rows: d.rows}
		if err := whole.join(parts); err != nil {
			t.Fatalf("batches do not join: %v", err)
		}
		if diff := cmp.Diff(plain(d.inputs), plain(whole.outputs)); diff != "" {
			t.Errorf("batches join to something else: %s", diff)
		}
	})
}
