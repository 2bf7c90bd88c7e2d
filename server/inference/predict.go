// Package inference answers the RPCs of the prediction API: it turns messages
// into tensors of the domain, resolves the model, has its contract checked,
// runs it and turns the result back.
package inference

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
	batching "github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/model"
)

// Config is what the service needs.
type Config struct {
	// Models are the models served. Required.
	Models *model.Repository
	// Scheduler runs the models. Nil: one of its own, with the zero Config.
	Scheduler Scheduler
	// Window is the number of batches of one stream that are taken before one
	// is answered. Required.
	Window int
	// BatchTimeout bounds one batch of a stream. Required.
	BatchTimeout time.Duration
}

// Scheduler runs models, each request when it is its turn. batch.Scheduler is one.
type Scheduler interface {
	// Run is as batch.Scheduler's.
	Run(context.Context, batching.Request) (outputs map[string]*model.Tensor, ran time.Duration, err error)
}

// Service implements PredictionService and ModelService.
type Service struct {
	inferencev1.UnimplementedPredictionServiceServer
	inferencev1.UnimplementedModelServiceServer

	models       *model.Repository
	scheduler    Scheduler
	window       int
	batchTimeout time.Duration
	streams      streams
}

var (
	_ inferencev1.PredictionServiceServer = (*Service)(nil)
	_ inferencev1.ModelServiceServer      = (*Service)(nil)
)

// New returns the service.
func New(cfg Config) (*Service, error) {
	if cfg.Models == nil || cfg.Window <= 0 || cfg.BatchTimeout <= 0 {
		return nil, errors.New("inference: Models, Window and BatchTimeout are required")
	}
	if cfg.Scheduler == nil {
		scheduler, err := batching.New(batching.Config{})
		if err != nil {
			return nil, err
		}
		cfg.Scheduler = scheduler
	}
	return &Service{
		models:       cfg.Models,
		scheduler:    cfg.Scheduler,
		window:       cfg.Window,
		batchTimeout: cfg.BatchTimeout,
	}, nil
}

// Drain tells every open stream, once, that the server is about to stop. It
// must be called at most once.
func (s *Service) Drain() { s.streams.drain() }

func (s *Service) isDraining() bool { return s.streams.isDraining() }

// Predict runs a model once.
func (s *Service) Predict(ctx context.Context, r *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	m, err := s.resolve(ctx, r.GetModel(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	defer m.Release()
	outputs, err := s.run(ctx, m, r.GetInputs(), r.GetOutputs(), false)
	if err != nil {
		return nil, err
	}
	return &inferencev1.PredictResponse{Model: m.Name, Version: m.Number, Digest: m.Digest, Outputs: outputs}, nil
}

// resolve finds the model and leaves on the call which one it is. The caller
// must Release it.
func (s *Service) resolve(ctx context.Context, name string, version int64) (*model.Version, error) {
	m, err := s.models.Acquire(name, version)
	if err != nil {
		return nil, refusal(fmt.Errorf("model %q version %d: %w", name, version, err))
	}
	interceptors.CallFromContext(ctx).Resolved(m.Name, m.Number, m.Digest)
	return m, nil
}

// run decodes the inputs, checks them against the contract, runs the model and
// encodes what it returned. What the call has paid for and the model did not
// begin to run, it gets back. Stream says that it is a batch of a stream.
func (s *Service) run(ctx context.Context, m *model.Version, in map[string]*inferencev1.Tensor, names []string, stream bool) (_ map[string]*inferencev1.Tensor, err error) {
	call := interceptors.CallFromContext(ctx)
	notRun := claimedRows(in)
	defer func() { call.NotRun(notRun) }()
	inputs, raw, err := decodeInputs(in)
	if err != nil {
		return nil, err
	}
	rows, err := m.Contract.Check(inputs, names)
	if err != nil {
		return nil, refusal(err)
	}
	outputs, ran, err := s.scheduler.Run(ctx, batching.Request{
		Version: m, Caller: callerOf(call), Stream: stream, Inputs: inputs, Rows: rows, Outputs: names,
	})
	if !errors.Is(err, model.ErrNotStarted) {
		call.Ran(rows, ran)
		notRun -= rows
	}
	if err != nil {
		return nil, refusal(fmt.Errorf("run model %q version %d: %w", m.Name, m.Number, err))
	}
	out := make(map[string]*inferencev1.Tensor, len(outputs))
	for name, t := range outputs {
		if out[name], err = encodeTensor(t, raw); err != nil {
			return nil, fmt.Errorf("output %q of model %q version %d: %w", name, m.Name, m.Number, err)
		}
	}
	return out, nil
}

// callerOf is the name under which a call waits for its turn: that of the proved
// workload, whatever it calls on behalf of.
func callerOf(call *interceptors.Call) string {
	if call.Caller == nil {
		return ""
	}
	return call.Caller.ID.String()
}

// decodeInputs also tells whether the answer is to be in raw form: every
// input that can have it has it.
func decodeInputs(in map[string]*inferencev1.Tensor) (inputs map[string]*model.Tensor, raw bool, err error) {
	inputs = make(map[string]*model.Tensor, len(in))
	for name, t := range in {
		decoded, err := decodeTensor(t)
		if err != nil {
			var wrong *fieldError
			field := "inputs[" + strconv.Quote(name) + "]"
			if errors.As(err, &wrong) {
				return nil, false, invalid(strings.TrimSuffix(field+"."+wrong.field, "."), wrong.description)
			}
			return nil, false, invalid(field, err.Error())
		}
		inputs[name] = decoded
		if decoded.DType != model.String {
			raw = true
		}
	}
	for _, t := range in {
		if t.GetDataType() != inferencev1.DataType_DATA_TYPE_STRING && len(t.GetRaw()) == 0 {
			return inputs, false, nil
		}
	}
	return inputs, raw, nil
}
