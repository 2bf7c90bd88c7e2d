package peers

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/sallyport/sallyport/bench/peers/oip"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Answer is what a model says of the rows of a request, whoever serves it.
type Answer struct {
	Labels []int64
	// Probabilities are those of the classes, row after row.
	Probabilities []float32
}

// same is an error unless b is the same answer, bit for bit.
func (a *Answer) same(b *Answer) error {
	if len(a.Labels) == 0 || len(a.Probabilities) == 0 {
		return errors.New("an empty answer")
	}
	if !slices.Equal(a.Labels, b.Labels) {
		return errors.New("other labels")
	}
	if !slices.EqualFunc(a.Probabilities, b.Probabilities, func(x, y float32) bool {
		return math.Float32bits(x) == math.Float32bits(y)
	}) {
		return errors.New("other probabilities")
	}
	return nil
}

func ofTensors(outputs map[string]*inferencev1.Tensor) (*Answer, error) {
	return ofRaw(outputs["label"].GetRaw(), outputs["probabilities"].GetRaw())
}

func ofRaw(label, probabilities []byte) (*Answer, error) {
	if len(label)%8 != 0 || len(probabilities)%4 != 0 {
		return nil, errors.New("half an element")
	}
	a := new(Answer)
	for ; len(label) > 0; label = label[8:] {
		a.Labels = append(a.Labels, int64(binary.LittleEndian.Uint64(label))) //nolint:gosec // the bits of one
	}
	for ; len(probabilities) > 0; probabilities = probabilities[4:] {
		a.Probabilities = append(a.Probabilities, math.Float32frombits(binary.LittleEndian.Uint32(probabilities)))
	}
	return a, nil
}

func ofOIP(r *oip.ModelInferResponse) (*Answer, error) {
	raw := map[string][]byte{}
	for i, out := range r.GetOutputs() {
		if i >= len(r.GetRawOutputContents()) {
			return nil, fmt.Errorf("output %q has no raw elements", out.GetName())
		}
		raw[out.GetName()] = r.GetRawOutputContents()[i]
	}
	return ofRaw(raw["label"], raw["probabilities"])
}

func ofJSON(text []byte) (*Answer, error) {
	var body struct {
		Label         []int64     `json:"label"`
		Probabilities [][]float32 `json:"probabilities"`
	}
	if err := json.Unmarshal(text, &body); err != nil {
		return nil, err
	}
	return &Answer{Labels: body.Label, Probabilities: slices.Concat(body.Probabilities...)}, nil
}
