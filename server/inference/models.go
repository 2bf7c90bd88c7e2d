package inference

import (
	"context"
	"slices"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/policy"
	"github.com/sallyport/sallyport/server/model"
)

// defaultPageSize is the size of a page of models that did not ask for one.
const defaultPageSize = 100

// ListModels lists the models that the caller may describe.
func (s *Service) ListModels(ctx context.Context, r *inferencev1.ListModelsRequest) (*inferencev1.ListModelsResponse, error) {
	call := interceptors.CallFromContext(ctx)
	size := int(r.GetPageSize())
	if size == 0 {
		size = defaultPageSize
	}
	out := &inferencev1.ListModelsResponse{}
	for _, m := range s.models.List() {
		// The token is the last name of the page before; names do not change.
		i := slices.IndexFunc(m.Versions, func(v model.Info) bool { return v.Number == m.Default })
		if m.Name <= r.GetPageToken() || i < 0 || !call.May(policy.Describe, m.Name) {
			continue
		}
		if len(out.Models) == size {
			out.NextPageToken = out.Models[size-1].GetName()
			break
		}
		out.Models = append(out.Models, describe(&m.Versions[i], m.Versions))
	}
	return out, nil
}

// GetModel describes one version of a model.
func (s *Service) GetModel(ctx context.Context, r *inferencev1.GetModelRequest) (*inferencev1.GetModelResponse, error) {
	v, err := s.resolve(ctx, r.GetModel(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	defer v.Release()
	m, err := s.models.Get(v.Name)
	if err != nil {
		return nil, refusal(err)
	}
	return &inferencev1.GetModelResponse{Model: describe(&v.Info, m.Versions)}, nil
}

// describe is one version of a model with the numbers of all.
func describe(v *model.Info, versions []model.Info) *inferencev1.Model {
	out := &inferencev1.Model{
		Name:        v.Name,
		Version:     v.Number,
		Digest:      v.Digest,
		Description: v.Manifest.GetDescription(),
		MaxRows:     v.Contract.MaxRows(),
	}
	for _, other := range versions {
		out.Versions = append(out.Versions, other.Number)
	}
	for _, in := range v.Signature.Inputs {
		spec := specToProto(in)
		spec.Columns = v.Contract.Columns(in.Name)
		out.Inputs = append(out.Inputs, spec)
	}
	for _, o := range v.Signature.Outputs {
		out.Outputs = append(out.Outputs, specToProto(o))
	}
	return out
}

func specToProto(t model.TensorSpec) *inferencev1.TensorSpec {
	return &inferencev1.TensorSpec{Name: t.Name, DataType: dtypeToProto(t.DType), Shape: t.Shape}
}
