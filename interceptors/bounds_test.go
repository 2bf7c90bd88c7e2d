package interceptors_test

import (
	"slices"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

func TestBounds(t *testing.T) {
	check, err := interceptors.Bounds(&inferencev1.PredictStreamRequest{})
	if err != nil {
		t.Fatal(err)
	}
	many := good(func(r *inferencev1.PredictRequest) {
		r.Outputs = slices.Repeat([]string{"x"}, 257)
	})
	deep := input(func(t *inferencev1.Tensor) { t.Shape = make([]int64, 17) })
	long := good(func(r *inferencev1.PredictRequest) { r.Inputs[strings.Repeat("k", 257)] = rows(1) })
	for name, c := range map[string]struct {
		message *inferencev1.PredictStreamRequest
		field   string // "" if it is within the bounds
	}{
		"an opening":                  {open(good()), ""},
		"a batch":                     {batch(1, good()), ""},
		"a large tensor":              {batch(1, good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(10000) })), ""},
		"sixteen dimensions":          {batch(1, input(func(t *inferencev1.Tensor) { t.Shape = make([]int64, 16) })), ""},
		"seventeen dimensions":        {batch(1, deep), "batch.inputs.value.shape"},
		"257 outputs":                 {open(many), "open.outputs"},
		"a name of an input too long": {batch(1, long), "batch.inputs.key"},
		"a model's name too long":     {open(modelOf(strings.Repeat("m", 513))), "open.model"},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := proto.Marshal(c.message)
			if err != nil {
				t.Fatal(err)
			}
			refusal := check(data)
			switch {
			case refusal == nil && c.field != "":
				t.Error("not refused")
			case refusal != nil && (len(refusal.Violations) != 1 || refusal.Violations[0].GetField() != c.field):
				t.Errorf("refused: %v", refusal)
			}
		})
	}
}

// FuzzBounds: what the rules of the schema let through, its bounds let through.
func FuzzBounds(f *testing.F) {
	check, err := interceptors.Bounds(&inferencev1.PredictRequest{})
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []*inferencev1.PredictRequest{good(), modelOf("x"), input(func(t *inferencev1.Tensor) { t.Shape = make([]int64, 16) })} {
		data, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = check(data)
		var r inferencev1.PredictRequest
		if proto.Unmarshal(data, &r) != nil || protovalidate.Validate(&r) != nil {
			return
		}
		// Encoded anew: a text that was given twice may be too long the first time.
		data, err := proto.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		if refusal := check(data); refusal != nil {
			t.Errorf("valid, but %v", refusal)
		}
	})
}
