// Package bare is what a competent team writes by hand when it needs the models
// behind mTLS and nothing more: grpc-go with its defaults, go-spiffe's TLS, ONNX
// Runtime. It answers the messages of the prediction API, so that one client
// measures both, and does the same work for an answer. It has no policy, no
// quotas, no rules for what comes in, no record of what went out.
package bare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/bench/engine"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Config is what the server needs.
type Config struct {
	// WorkloadAPI is the address of the Workload API, TrustDomain whose workloads
	// may call.
	WorkloadAPI string
	TrustDomain spiffeid.TrustDomain
	// Models is a model repository; the highest version of each model is served.
	Models string
	// Library is ONNX Runtime's.
	Library string
}

// Serve serves on a port of the system's choice until ctx ends. ready is told
// the address once calls are answered.
func Serve(ctx context.Context, cfg Config, ready func(address string)) (err error) {
	closeLibrary, err := engine.Open(cfg.Library)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLibrary()) }()
	s := &service{models: map[string]*served{}}
	defer func() {
		for _, m := range s.models {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := s.load(cfg.Models); err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(cfg.WorkloadAPI)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()

	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(
		tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeMemberOf(cfg.TrustDomain)))))
	inferencev1.RegisterPredictionServiceServer(server, s)
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, server.Stop)()
	ready(lis.Addr().String())
	return server.Serve(lis)
}

// served is a model and what a response says of it.
type served struct {
	*engine.Model
	name    string
	version int64
}

type service struct {
	inferencev1.UnimplementedPredictionServiceServer
	models map[string]*served
}

// load loads the highest version of each model.
func (s *service) load(dir string) error {
	artefacts, err := filepath.Glob(filepath.Join(dir, "*", "*", "model.onnx"))
	if err != nil {
		return err
	}
	paths := map[string]*served{}
	for _, path := range artefacts {
		version, err := strconv.ParseInt(filepath.Base(filepath.Dir(path)), 10, 64)
		if err != nil {
			return err
		}
		name := filepath.Base(filepath.Dir(filepath.Dir(path)))
		if m := paths[name]; m == nil || m.version < version {
			paths[name] = &served{name: name, version: version}
		}
	}
	if len(paths) == 0 {
		return fmt.Errorf("no models in %s: %w", dir, os.ErrNotExist)
	}
	for name, m := range paths {
		m.Model, err = engine.Load(filepath.Join(dir, name, strconv.FormatInt(m.version, 10), "model.onnx"))
		if err != nil {
			return err
		}
		s.models[name] = m
	}
	return nil
}

func (s *service) find(name string) (*served, error) {
	m := s.models[name]
	if m == nil {
		return nil, status.Errorf(codes.NotFound, "no model %q", name)
	}
	return m, nil
}

func (m *served) run(tensors map[string]*inferencev1.Tensor) (map[string]*inferencev1.Tensor, error) {
	in, err := m.Prepare(tensors)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	defer in.Close()
	return m.Run(in)
}

// Predict runs a model once.
func (s *service) Predict(_ context.Context, r *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	m, err := s.find(r.GetModel())
	if err != nil {
		return nil, err
	}
	outputs, err := m.run(r.GetInputs())
	if err != nil {
		return nil, err
	}
	return &inferencev1.PredictResponse{Model: m.name, Version: m.version, Digest: m.Digest, Outputs: outputs}, nil
}

// PredictStream runs a model over the batches of a stream, one after the other.
func (s *service) PredictStream(stream grpc.BidiStreamingServer[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	m, err := s.find(first.GetOpen().GetModel())
	if err != nil {
		return err
	}
	err = stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Opened{
		Opened: &inferencev1.StreamOpened{Model: m.name, Version: m.version, Digest: m.Digest, Window: 1},
	}})
	for err == nil {
		var request *inferencev1.PredictStreamRequest
		if request, err = stream.Recv(); err != nil {
			break
		}
		var outputs map[string]*inferencev1.Tensor
		if outputs, err = m.run(request.GetBatch().GetInputs()); err != nil {
			break
		}
		err = stream.Send(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{
			Result: &inferencev1.StreamResult{
				Sequence: request.GetBatch().GetSequence(),
				Result:   &inferencev1.StreamResult_Outputs{Outputs: &inferencev1.StreamOutputs{Outputs: outputs}},
			},
		}})
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
