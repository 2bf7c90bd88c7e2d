package target

import (
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/examples"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// The example models, and where their rows come from.
const (
	BreastCancer  = "breast-cancer"
	Digits        = "digits"
	TicketRouting = "ticket-routing"
)

var holdouts = map[string]string{BreastCancer: "breast-cancer", Digits: "digits", TicketRouting: "tickets"}

// Request is what is asked of a model, in all the forms in which it is sent.
type Request struct {
	Model string
	Rows  int
	// Inputs are the tensors.
	Inputs map[string]*inferencev1.Tensor
	// Unary, Open and Batch are serialized: a PredictRequest, the first message of a
	// stream, and the inputs of a StreamBatch.
	Unary, Open, Batch []byte
}

// NewRequest makes a request of an example model with so many of its held-out
// rows, which repeat if they are not enough.
func NewRequest(model string, rows int) (*Request, error) {
	data, err := examples.FS.Open("data/" + holdouts[model] + "-holdout.csv")
	if err != nil {
		return nil, err
	}
	defer func() { _ = data.Close() }()
	records, err := csv.NewReader(data).ReadAll()
	if err != nil {
		return nil, err
	}
	records = records[1:] // without the names
	columns := len(records[0]) - 1
	t := &inferencev1.Tensor{Shape: []int64{int64(rows), int64(columns)}}
	name := "features"
	if model == TicketRouting {
		name = "text"
		t.DataType = inferencev1.DataType_DATA_TYPE_STRING
		for i := range rows {
			t.StringValues = append(t.StringValues, records[i%len(records)][0])
		}
	} else {
		t.DataType = inferencev1.DataType_DATA_TYPE_FLOAT32
		for i := range rows {
			for _, text := range records[i%len(records)][:columns] {
				v, err := strconv.ParseFloat(text, 32)
				if err != nil {
					return nil, err
				}
				t.Raw = binary.LittleEndian.AppendUint32(t.Raw, math.Float32bits(float32(v)))
			}
		}
	}
	return requestOf(model, rows, map[string]*inferencev1.Tensor{name: t})
}

// To is the same request of another model.
func (r *Request) To(model string) (*Request, error) { return requestOf(model, r.Rows, r.Inputs) }

func requestOf(model string, rows int, inputs map[string]*inferencev1.Tensor) (*Request, error) {
	r := &Request{Model: model, Rows: rows, Inputs: inputs}
	var outputs []string
	if model == TicketRouting {
		// Its probabilities are no tensor for whoever does not adapt the graph.
		outputs = []string{"label"}
	}
	var errs [3]error
	r.Unary, errs[0] = proto.Marshal(&inferencev1.PredictRequest{Model: model, Inputs: inputs, Outputs: outputs})
	r.Open, errs[1] = proto.Marshal(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{
		Open: &inferencev1.StreamOpen{Model: model, Ordered: true, Outputs: outputs},
	}})
	r.Batch, errs[2] = proto.Marshal(&inferencev1.StreamBatch{Inputs: inputs})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("request of %s: %w", model, err)
	}
	return r, nil
}
