package inference

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/server/model"
)

// Methods tells the gates what each method of the two services does and what
// its messages are about.
func (s *Service) Methods() []interceptors.Method {
	return []interceptors.Method{
		{
			FullMethod: inferencev1.PredictionService_Predict_FullMethodName,
			Action:     policy.Predict,
			New:        func() proto.Message { return &inferencev1.PredictRequest{} },
			Describe:   s.describePredict,
			Decode:     decodeRequest,
		},
		{
			FullMethod: inferencev1.PredictionService_PredictStream_FullMethodName,
			Action:     policy.PredictStream,
			New:        func() proto.Message { return &inferencev1.PredictStreamRequest{} },
			Describe:   describeStream,
			Decode:     decodeRequest,
		},
		{
			FullMethod: inferencev1.ModelService_ListModels_FullMethodName,
			Action:     policy.Describe,
			New:        func() proto.Message { return &inferencev1.ListModelsRequest{} },
		},
		{
			FullMethod: inferencev1.ModelService_GetModel_FullMethodName,
			Action:     policy.Describe,
			New:        func() proto.Message { return &inferencev1.GetModelRequest{} },
			Describe: func(m proto.Message) interceptors.Subject {
				r, _ := m.(*inferencev1.GetModelRequest)
				return interceptors.Subject{Model: r.GetModel()}
			},
		},
	}
}

func (s *Service) describePredict(m proto.Message) interceptors.Subject {
	r, _ := m.(*inferencev1.PredictRequest)
	return interceptors.Subject{
		Model:  r.GetModel(),
		Rows:   claimedRows(r.GetInputs()),
		Inputs: inputs(r.GetInputs()),
	}
}

func describeStream(m proto.Message) interceptors.Subject {
	r, _ := m.(*inferencev1.PredictStreamRequest)
	if batch := r.GetBatch(); batch != nil {
		return interceptors.Subject{Rows: claimedRows(batch.GetInputs()), Inputs: inputs(batch.GetInputs())}
	}
	return interceptors.Subject{Model: r.GetOpen().GetModel()}
}

// claimedRows is the number of rows that a request is charged for: the largest
// first dimension of its inputs. For a model without a row dimension that is
// more than the one row it runs; what did not run is given back.
func claimedRows(inputs map[string]*inferencev1.Tensor) int64 {
	rows := int64(0)
	for _, t := range inputs {
		if shape := t.GetShape(); len(shape) > 0 {
			rows = max(rows, shape[0])
		} else {
			rows = max(rows, 1)
		}
	}
	return rows
}

// inputs are the inputs of a request.
type inputs map[string]*inferencev1.Tensor

// DigestTo writes the inputs in the order of their names, each with its name,
// type, shape and elements. Tensors that cannot be decoded are left out; their
// request is refused.
func (in inputs) DigestTo(d *audit.Digest) {
	if len(in) == 1 {
		for name, t := range in {
			digestTensor(d, name, t)
		}
		return
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		digestTensor(d, name, in[name])
	}
}

func digestTensor(d *audit.Digest, name string, p *inferencev1.Tensor) {
	var t model.Tensor
	if err := decodeInto(&t, p); err != nil {
		return
	}
	d.String(name)
	d.Uint64(uint64(t.DType))
	d.Uint64(uint64(len(t.Shape)))
	for _, dim := range t.Shape {
		d.Uint64(uint64(dim)) //nolint:gosec // not negative
	}
	_, _ = d.Write(t.Data)
	for _, s := range t.Strings {
		d.String(s)
	}
}
