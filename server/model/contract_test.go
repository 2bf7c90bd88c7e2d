package model_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/server/model"
)

// tensor encodes values of any numeric Go type.
func tensor[T any](t testing.TB, dtype model.DType, shape []int64, values ...T) *model.Tensor {
	t.Helper()
	data, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		t.Fatal(err)
	}
	return &model.Tensor{DType: dtype, Shape: shape, Data: data}
}

func manifest(t testing.TB, yaml string) *configv1.ModelManifest {
	t.Helper()
	m, err := model.ParseManifest("model.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// contract is that of a model with input x and the outputs label and score.
func contract(t testing.TB, dtype model.DType, shape []int64, yaml string) *model.Contract {
	t.Helper()
	c, err := model.NewContract(signature(dtype, shape), manifest(t, yaml))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func signature(dtype model.DType, shape []int64) *model.Signature {
	return &model.Signature{
		Inputs:  []model.TensorSpec{{Name: "x", DType: dtype, Shape: shape}},
		Outputs: []model.TensorSpec{{Name: "label", DType: model.Int64, Shape: []int64{-1}}, {Name: "score", DType: model.Float32, Shape: []int64{-1}}},
	}
}

func violations(t testing.TB, err error) []model.Violation {
	t.Helper()
	if err == nil {
		return nil
	}
	contractErr, ok := errors.AsType[*model.ContractError](err)
	if !ok {
		t.Fatalf("a %T: %v", err, err)
	}
	return contractErr.Violations
}

var (
	nan = float32(math.NaN())
	inf = float32(math.Inf(1))
	vec = []int64{-1}
	mat = []int64{-1, 2}
)

func TestCheckElements(t *testing.T) {
	type fail = []model.Violation
	at := func(index, description string) fail {
		return fail{{Field: `inputs["x"][` + index + `]`, Description: description}}
	}
	f32 := func(shape []int64, v ...float32) *model.Tensor { return tensor(t, model.Float32, shape, v...) }
	str := func(v ...string) *model.Tensor {
		return &model.Tensor{DType: model.String, Shape: []int64{int64(len(v))}, Strings: v}
	}
	const x = "inputs: [{name: x, %s}]"
	for name, tt := range map[string]struct {
		shape   []int64
		demands string
		in      *model.Tensor
		want    fail
	}{
		"finite":                {vec, "", f32([]int64{2}, 1, -math.MaxFloat32), nil},
		"NaN":                   {vec, "", f32([]int64{2}, 1, nan), at("1", "must not be NaN")},
		"infinity":              {vec, "", f32([]int64{1}, inf), at("0", "must not be infinite")},
		"negative infinity":     {vec, "", f32([]int64{1}, -inf), at("0", "must not be infinite")},
		"NaN allowed":           {vec, "allow_nan: true", f32([]int64{1}, nan), nil},
		"NaN allowed, not inf":  {vec, "allow_nan: true", f32([]int64{2}, nan, inf), at("1", "must not be infinite")},
		"inf allowed, not NaN":  {vec, "allow_infinity: true", f32([]int64{3}, inf, -inf, nan), at("2", "must not be NaN")},
		"inf above max":         {vec, "allow_infinity: true, max: 5", f32([]int64{2}, -inf, inf), at("1", "must be at most 5")},
		"inf above a huge max":  {vec, "allow_infinity: true, max: 1e300", f32([]int64{1}, inf), at("0", "must not be infinite")},
		"inf below a huge min":  {vec, "allow_infinity: true, min: -1e300", f32([]int64{1}, -inf), at("0", "must not be infinite")},
		"at the bounds":         {vec, "min: -1, max: 5", f32([]int64{2}, -1, 5), nil},
		"below":                 {vec, "min: -1, max: 5", f32([]int64{1}, -1.5), at("0", "must be at least -1")},
		"above":                 {vec, "min: -1, max: 5", f32([]int64{1}, 6), at("0", "must be at most 5")},
		"bound of the type":     {vec, "min: 0.1, max: 0.1", f32([]int64{1}, 0.1), nil},
		"allowed number":        {vec, "allowed_numbers: [0.1, 3]", f32([]int64{3}, 3, 0.1, 2), at("2", "must be one of the values allowed")},
		"allowed number, NaN":   {vec, "allowed_numbers: [1], allow_nan: true", f32([]int64{2}, nan, 1), nil},
		"column ranges":         {mat, "min: 0, columns: [{name: a, max: 1}, {name: b, min: 5}]", f32([]int64{2, 2}, 1, 5, 1, 99), nil},
		"below in column":       {mat, "min: 0, columns: [{name: a, max: 1}, {name: b, min: 5}]", f32([]int64{2, 2}, 1, 5, 1, 4), at(`1,"b"`, "must be at least 5")},
		"above in column":       {mat, "min: 0, columns: [{name: a, max: 1}, {name: b, min: 5}]", f32([]int64{2, 2}, 1, 5, 2, 9), at(`1,"a"`, "must be at most 1")},
		"below for all columns": {mat, "min: 0, columns: [{name: a, max: 1}, {name: b, min: 5}]", f32([]int64{1, 2}, -1, 5), at(`0,"a"`, "must be at least 0")},
		"NaN in column":         {mat, "columns: [{name: a, max: 1}, {name: b}]", f32([]int64{1, 2}, 1, nan), at(`0,"b"`, "must not be NaN")},
		"three dimensions":      {[]int64{-1, 2, 3}, "max: 0", f32([]int64{2, 2, 3}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0), at("1,1,1", "must be at most 0")},
		"scalar":                {[]int64{}, "max: 0", f32([]int64{}, 1), fail{{`inputs["x"]`, "must be at most 0"}}},

		"float64":                {vec, "max: 0.1", tensor(t, model.Float64, []int64{2}, 0.1, 0.1000001), at("1", "must be at most 0.1")},
		"float64 NaN":            {vec, "", tensor(t, model.Float64, []int64{1}, math.NaN()), at("0", "must not be NaN")},
		"float64 infinity":       {vec, "", tensor(t, model.Float64, []int64{1}, math.Inf(-1)), at("0", "must not be infinite")},
		"float64 allowed":        {vec, "allowed_numbers: [0.1]", tensor(t, model.Float64, []int64{2}, 0.1, 0.2), at("1", "must be one of the values allowed")},
		"float16 NaN":            {vec, "", tensor(t, model.Float16, []int64{1}, uint16(0x7e00)), at("0", "must not be NaN")},
		"float16 infinity":       {vec, "", tensor(t, model.Float16, []int64{2}, uint16(0x7bff), uint16(0xfc00)), at("1", "must not be infinite")},
		"float16 subnormal":      {vec, "min: 1e-7", tensor(t, model.Float16, []int64{3}, uint16(2), uint16(3), uint16(1)), at("2", "must be at least 1.1920929e-07")},
		"float16 bound of type":  {vec, "min: 0.1, max: 0.1", tensor(t, model.Float16, []int64{2}, uint16(0x2e66), uint16(0x2e67)), at("1", "must be at most 0.099975586")},
		"float16 negative":       {vec, "min: -2", tensor(t, model.Float16, []int64{2}, uint16(0xc000), uint16(0xc001)), at("1", "must be at least -2")},
		"bfloat16 NaN":           {vec, "", tensor(t, model.BFloat16, []int64{1}, uint16(0x7fc0)), at("0", "must not be NaN")},
		"bfloat16 infinity":      {vec, "", tensor(t, model.BFloat16, []int64{2}, uint16(0x7f7f), uint16(0x7f80)), at("1", "must not be infinite")},
		"bfloat16 bound of type": {vec, "max: 0.1", tensor(t, model.BFloat16, []int64{2}, uint16(0x3dcd), uint16(0x3dce)), at("1", "must be at most 0.100097656")},
		"int8":                   {vec, "min: -3.5, max: 3.5", tensor(t, model.Int8, []int64{3}, int8(-3), 3, -4), at("2", "must be at least -3")},
		"int16":                  {vec, "max: -1", tensor(t, model.Int16, []int64{2}, int16(math.MinInt16), 0), at("1", "must be at most -1")},
		"int32":                  {vec, "min: 0", tensor(t, model.Int32, []int64{2}, int32(math.MaxInt32), -1), at("1", "must be at least 0")},
		"int64":                  {vec, "min: 9", tensor(t, model.Int64, []int64{2}, int64(math.MaxInt64), 8), at("1", "must be at least 9")},
		"int64 beyond float64":   {vec, "max: 9007199254740992", tensor(t, model.Int64, []int64{2}, int64(1<<53), 1<<53+1), at("1", "must be at most 9007199254740992")},
		"uint8":                  {vec, "min: -7, max: 300", tensor(t, model.Uint8, []int64{2}, uint8(0), 255), nil},
		"uint8 above":            {vec, "max: 254", tensor(t, model.Uint8, []int64{1}, uint8(255)), at("0", "must be at most 254")},
		"uint16":                 {vec, "min: 1", tensor(t, model.Uint16, []int64{2}, uint16(math.MaxUint16), 0), at("1", "must be at least 1")},
		"uint32":                 {vec, "max: 1", tensor(t, model.Uint32, []int64{1}, uint32(math.MaxUint32)), at("0", "must be at most 1")},
		"uint64":                 {vec, "min: 1, max: 1e19", tensor(t, model.Uint64, []int64{2}, uint64(1), 1e19+2048), at("1", "must be at most 10000000000000000000")},
		"uint64 below":           {vec, "min: 1", tensor(t, model.Uint64, []int64{2}, uint64(math.MaxUint64), 0), at("1", "must be at least 1")},
		"int allowed":            {vec, "allowed_numbers: [7, -3]", tensor(t, model.Int32, []int64{3}, int32(-3), 7, 5), at("2", "must be one of the values allowed")},
		"uint64 allowed":         {vec, "allowed_numbers: [0, 7]", tensor(t, model.Uint64, []int64{3}, uint64(0), 7, 8), at("2", "must be one of the values allowed")},
		"int column":             {mat, "columns: [{name: a}, {name: b, max: 1}]", tensor(t, model.Int64, []int64{1, 2}, int64(9), 2), at(`0,"b"`, "must be at most 1")},
		"bool":                   {vec, "", tensor(t, model.Bool, []int64{3}, uint8(0), 1, 2), at("2", "must be 0 or 1")},
		"string":                 {vec, "max_string_bytes: 3", str("abc", "", "日"), nil},
		"string too long":        {vec, "max_string_bytes: 3", str("abc", "abcd"), at("1", "must have at most 3 bytes")},
		"string beyond default":  {vec, "", str(strings.Repeat("x", 4096), strings.Repeat("x", 4097)), at("1", "must have at most 4096 bytes")},
		"string not UTF-8":       {vec, "", str("\xff"), at("0", "must be valid UTF-8")},
		"string with NUL":        {vec, "", str("a\x00b"), at("0", "must not contain the character U+0000")},
		"string allowed":         {vec, "allowed_strings: [red, blue]", str("red", "green"), at("1", "must be one of the values allowed")},
	} {
		t.Run(name, func(t *testing.T) {
			c := contract(t, tt.in.DType, tt.shape, fmt.Sprintf(x, tt.demands))
			_, err := c.Check(map[string]*model.Tensor{"x": tt.in}, nil)
			if diff := cmp.Diff(tt.want, fail(violations(t, err))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCheckShapes(t *testing.T) {
	sig := &model.Signature{
		Inputs: []model.TensorSpec{
			{Name: "a", DType: model.Float32, Shape: []int64{-1, 2}},
			{Name: "b", DType: model.Float32, Shape: []int64{-1}},
			{Name: "scale", DType: model.Float32, Shape: []int64{1}},
		},
		Outputs: []model.TensorSpec{{Name: "label"}, {Name: "embedding"}},
	}
	c, err := model.NewContract(sig, manifest(t, "max_rows: 3\noutputs: [label]"))
	if err != nil {
		t.Fatal(err)
	}
	f32 := func(shape ...int64) *model.Tensor {
		return &model.Tensor{DType: model.Float32, Shape: shape, Data: make([]byte, 4*max(0, model.Elements(shape)))}
	}
	type tensors = map[string]*model.Tensor
	for name, tt := range map[string]struct {
		replace tensors // nil takes an input away
		outputs []string
		rows    int64
		want    string
	}{
		"fits":                 {nil, nil, 2, ""},
		"most rows":            {tensors{"a": f32(3, 2), "b": f32(3)}, []string{"label"}, 3, ""},
		"missing":              {tensors{"b": nil}, nil, 0, `inputs["b"] is missing`},
		"unknown input":        {tensors{"c\n": f32(1)}, nil, 0, `inputs["c\n"] is no input of the model`},
		"wrong type":           {tensors{"b": tensor(t, model.Float64, []int64{2}, 1.0, 2)}, nil, 0, `inputs["b"] must be FLOAT32, is FLOAT64`},
		"wrong rank":           {tensors{"a": f32(2)}, nil, 0, `inputs["a"] must have the shape [any, 2], has [2]`},
		"wrong dimension":      {tensors{"a": f32(2, 3)}, nil, 0, `inputs["a"] must have the shape [any, 2], has [2, 3]`},
		"wrong fixed first":    {tensors{"scale": f32(2)}, nil, 0, `inputs["scale"] must have the shape [1], has [2]`},
		"negative dimension":   {tensors{"a": f32(-1, 2)}, nil, 0, `inputs["a"] shape [-1 2] is negative or too large`},
		"too few bytes":        {tensors{"b": {DType: model.Float32, Shape: []int64{2}, Data: make([]byte, 7)}}, nil, 0, `inputs["b"] shape [2] of FLOAT32 needs 2 elements of 4 bytes, got 7 bytes`},
		"no rows":              {tensors{"a": f32(0, 2), "b": f32(0)}, nil, 0, `inputs["a"] must have at least 1 row; inputs["b"] must have at least 1 row`},
		"too many rows":        {tensors{"a": f32(4, 2), "b": f32(4)}, nil, 0, `inputs["a"] must have at most 3 rows, has 4; inputs["b"] must have at most 3 rows, has 4`},
		"rows disagree":        {tensors{"b": f32(3)}, nil, 0, `inputs["b"] must have as many rows as inputs["a"], 2, has 3`},
		"unknown output":       {nil, []string{"label", "secret"}, 0, `outputs[1] "secret" is no output of the model`},
		"output kept back":     {nil, []string{"embedding"}, 0, `outputs[0] "embedding" is no output of the model`},
		"all faults at once":   {tensors{"a": nil, "z": f32(1)}, []string{"q"}, 0, `inputs["a"] is missing; inputs["z"] is no input of the model; outputs[0] "q" is no output of the model`},
		"shape before content": {tensors{"a": tensor(t, model.Float32, []int64{1, 2}, nan, nan), "b": f32(4)}, nil, 0, `inputs["b"] must have at most 3 rows, has 4`},
	} {
		t.Run(name, func(t *testing.T) {
			inputs := tensors{"a": f32(2, 2), "b": f32(2), "scale": f32(1)}
			for name, tensor := range tt.replace {
				if tensor == nil {
					delete(inputs, name)
				} else {
					inputs[name] = tensor
				}
			}
			rows, err := c.Check(inputs, tt.outputs)
			got := ""
			if err != nil {
				got = strings.TrimPrefix(err.Error(), "contract violated: ")
			}
			if rows != tt.rows || got != tt.want {
				t.Errorf("got %d rows and %q\nwant %d rows and %q", rows, got, tt.rows, tt.want)
			}
		})
	}
}

// A model may multiply the other dimensions of a tensor without elements.
func TestCheckEmpty(t *testing.T) {
	c := contract(t, model.Float32, []int64{-1, -1, -1}, "{}")
	for _, tt := range []struct {
		shape []int64
		ok    bool
	}{
		{[]int64{1, 1 << 20, 0}, true},
		{[]int64{1, 1<<20 + 1, 0}, false},
		{[]int64{2, 0, 1 << 20}, false},
		{[]int64{2, 0, math.MaxInt64}, false},
	} {
		_, err := c.Check(map[string]*model.Tensor{"x": {DType: model.Float32, Shape: tt.shape}}, nil)
		if (err == nil) != tt.ok {
			t.Errorf("shape %v: %v", tt.shape, err)
		}
	}
}

func TestCheckCountsViolations(t *testing.T) {
	c := contract(t, model.Float32, vec, "inputs: [{name: x, max: 0}]")
	_, err := c.Check(map[string]*model.Tensor{"x": tensor(t, model.Float32, []int64{50}, slices.Repeat([]float32{1234.5}, 50)...)}, nil)
	contractErr, ok := errors.AsType[*model.ContractError](err)
	if !ok || len(contractErr.Violations) != 16 || contractErr.More != 34 {
		t.Fatalf("got %v", err)
	}
	if !strings.HasSuffix(err.Error(), "; and 34 more") {
		t.Errorf("error %q", err)
	}
	if strings.Contains(err.Error(), "1234") {
		t.Errorf("error tells a value: %q", err)
	}
}

func TestNewContract(t *testing.T) {
	for name, tt := range map[string]struct {
		dtype model.DType
		shape []int64
		yaml  string
		want  []string // nil: fits
	}{
		"no manifest":                {model.Float32, mat, "{}", nil},
		"columns of an open width":   {model.Float32, []int64{-1, -1}, "inputs: [{name: x, columns: [{name: a}]}]", nil},
		"columns of strings":         {model.String, mat, "inputs: [{name: x, columns: [{name: a}, {name: b}]}]", nil},
		"min below the type":         {model.Uint8, vec, "inputs: [{name: x, min: -1}]", nil},
		"unknown input and output":   {model.Float32, mat, "inputs: [{name: y}]\noutputs: [label, z]", []string{`no input "y"`, `no output "z"`}},
		"too few columns":            {model.Float32, mat, "inputs: [{name: x, columns: [{name: a}]}]", []string{`inputs["x"].columns: there are 1, the model has 2`}},
		"columns of a vector":        {model.Float32, vec, "inputs: [{name: x, columns: [{name: a}]}]", []string{"1 dimensions"}},
		"columns of three":           {model.Float32, []int64{-1, 1, 1}, "inputs: [{name: x, columns: [{name: a}]}]", []string{"3 dimensions"}},
		"range of strings":           {model.String, vec, "inputs: [{name: x, min: 1}]", []string{"numeric inputs, this is STRING"}},
		"column range of strings":    {model.String, mat, "inputs: [{name: x, columns: [{name: a, max: 1}, {name: b}]}]", []string{"numeric inputs, this is STRING"}},
		"numbers for bool":           {model.Bool, vec, "inputs: [{name: x, allowed_numbers: [1]}]", []string{"numeric inputs, this is BOOL"}},
		"strings for numbers":        {model.Int64, vec, "inputs: [{name: x, max_string_bytes: 1}]", []string{"STRING inputs, this is INT64"}},
		"allowed strings, numbers":   {model.Int64, vec, "inputs: [{name: x, allowed_strings: [a]}]", []string{"STRING inputs, this is INT64"}},
		"NaN for integers":           {model.Int64, vec, "inputs: [{name: x, allow_nan: true}]", []string{"floating-point inputs, this is INT64"}},
		"infinity for integers":      {model.Int64, vec, "inputs: [{name: x, allow_infinity: true}]", []string{"floating-point inputs, this is INT64"}},
		"min is NaN":                 {model.Float32, vec, "inputs: [{name: x, min: nan}]", []string{"no FLOAT32 is within"}},
		"int min is NaN":             {model.Int64, vec, "inputs: [{name: x, min: nan}]", []string{"no INT64 is within"}},
		"min beyond the type":        {model.Float32, vec, "inputs: [{name: x, min: 1e300}]", []string{"no FLOAT32 is within"}},
		"min beyond uint8":           {model.Uint8, vec, "inputs: [{name: x, min: 256}]", []string{"no UINT8 is within"}},
		"min beyond int64":           {model.Int64, vec, "inputs: [{name: x, min: 9223372036854775808}]", []string{"no INT64 is within"}},
		"min beyond uint64":          {model.Uint64, vec, "inputs: [{name: x, min: 1e20}]", []string{"no UINT64 is within"}},
		"max below uint8":            {model.Uint8, vec, "inputs: [{name: x, max: -1}]", []string{"no UINT8 is within"}},
		"no integer between":         {model.Int32, vec, "inputs: [{name: x, min: 0.1, max: 0.9}]", []string{"no INT32 is within"}},
		"column outside the input's": {model.Float32, mat, "inputs: [{name: x, max: 1, columns: [{name: a}, {name: b, min: 2}]}]", []string{`inputs["x"].columns["b"]: no FLOAT32`}},
		"allowed fraction":           {model.Int8, vec, "inputs: [{name: x, allowed_numbers: [1, 0.5, 200]}]", []string{"allowed_numbers[1]", "allowed_numbers[2]"}},
		"allowed NaN":                {model.Float32, vec, "inputs: [{name: x, allowed_numbers: [nan]}]", []string{"allowed_numbers[0]"}},
		"rows without a dimension":   {model.Float32, []int64{1, 2}, "max_rows: 5", []string{"no row dimension"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := model.NewContract(signature(tt.dtype, tt.shape), manifest(t, tt.yaml))
			if (c == nil) != (tt.want != nil) || (err == nil) != (tt.want == nil) {
				t.Fatalf("contract %v, error %v", c, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not contain %q", err, want)
				}
			}
		})
	}
}

func TestContractTells(t *testing.T) {
	c := contract(t, model.Float32, mat, "outputs: [score]\ninputs: [{name: x, columns: [{name: a}, {name: b}]}]")
	if got, want := c.Columns("x"), []string{"a", "b"}; !slices.Equal(got, want) {
		t.Errorf("columns %q, want %q", got, want)
	}
	if got, want := c.Outputs(), []string{"score"}; !slices.Equal(got, want) {
		t.Errorf("outputs %q, want %q", got, want)
	}
	if got := c.MaxRows(); got != 4096 {
		t.Errorf("max rows %d", got)
	}
	if got := contract(t, model.Float32, []int64{1}, "{}").MaxRows(); got != 0 {
		t.Errorf("max rows %d without a row dimension", got)
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	c := contract(t, model.Float32, mat, "inputs: [{name: x, columns: [{name: a, max: 1}, {name: b}]}]")
	inputs := map[string]*model.Tensor{"x": tensor[float32](t, model.Float32, []int64{2, 2}, 1, 2, 1, 4)}
	outputs := []string{"label"}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Check(inputs, outputs); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestCheckReadsUnalignedData: elements may begin anywhere.
func TestCheckReadsUnalignedData(t *testing.T) {
	c := contract(t, model.Float32, mat, "inputs: [{name: x, columns: [{name: a, max: 1}, {name: b, min: 5}]}]")
	good, bad := tensor(t, model.Float32, []int64{2, 2}, []float32{1, 5, 1, 9}...), tensor(t, model.Float32, []int64{2, 2}, []float32{1, 5, 1, 4}...)
	for offset := range 4 {
		for _, in := range []*model.Tensor{good, bad} {
			moved := *in
			moved.Data = append(make([]byte, offset, 64), in.Data...)[offset:]
			if _, err := c.Check(map[string]*model.Tensor{"x": &moved}, nil); (err == nil) != (in == good) {
				t.Errorf("%d bytes in: %v", offset, err)
			}
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	var columns strings.Builder
	for i := range 30 {
		fmt.Fprintf(&columns, "{name: c%d, min: 0, max: 100},", i)
	}
	for _, rows := range []int64{1, 4096} {
		for dtype, values := range map[model.DType]any{
			model.Float32: slices.Repeat([]float32{50}, int(30*rows)),
			model.Float64: slices.Repeat([]float64{50}, int(30*rows)),
			model.Int64:   slices.Repeat([]int64{50}, int(30*rows)),
		} {
			for form, demands := range map[string]string{"plain": "", "columns": "columns: [" + columns.String() + "]"} {
				b.Run(fmt.Sprintf("%s/%s/%dx30", dtype, form, rows), func(b *testing.B) {
					c := contract(b, dtype, []int64{-1, 30}, "inputs: [{name: x, "+demands+"}]")
					data, err := binary.Append(nil, binary.LittleEndian, values)
					if err != nil {
						b.Fatal(err)
					}
					inputs := map[string]*model.Tensor{"x": {DType: dtype, Shape: []int64{rows, 30}, Data: data}}
					b.SetBytes(int64(len(data)))
					b.ReportAllocs()
					for b.Loop() {
						if _, err := c.Check(inputs, nil); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
