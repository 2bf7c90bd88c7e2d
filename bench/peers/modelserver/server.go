// Package modelserver is the model server behind Envoy, as a team writes it that
// leaves identity, access, limits and the log of calls to the proxy: grpc-go in
// plaintext on loopback, ONNX Runtime, and the checks that a proxy cannot make
// since they are about what is in a message.
package modelserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/bench/engine"
	"github.com/sallyport/sallyport/bench/peers/contract"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// ModelHeader names the model, for a proxy that does not look into messages.
const ModelHeader = "x-model"

// maxMessageBytes takes a batch of 4,096 rows, as sallyport does unless it is
// configured; that of grpc-go would do as well.
const maxMessageBytes = 8 << 20

// Serve serves the models on a port of the system's choice until ctx ends. ready is
// told the address once calls are answered.
func Serve(ctx context.Context, library string, models map[string]contract.Model, ready func(address string)) (err error) {
	closeLibrary, err := engine.Open(library)
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
	for name, spec := range models {
		m, err := engine.Load(spec.File)
		if err != nil {
			return err
		}
		s.models[name] = &served{Model: m, spec: spec}
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageBytes))
	inferencev1.RegisterPredictionServiceServer(server, s)
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, server.Stop)()
	ready(lis.Addr().String())
	return server.Serve(lis)
}

type served struct {
	*engine.Model
	spec contract.Model
}

type service struct {
	inferencev1.UnimplementedPredictionServiceServer
	models map[string]*served
}

// Predict runs a model once.
func (s *service) Predict(ctx context.Context, r *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	// What the proxy allowed is what the header named.
	if named := metadata.ValueFromIncomingContext(ctx, ModelHeader); len(named) != 1 || named[0] != r.GetModel() {
		return nil, status.Errorf(codes.PermissionDenied, "the header %s does not name the model", ModelHeader)
	}
	m := s.models[r.GetModel()]
	if m == nil {
		return nil, status.Errorf(codes.NotFound, "no model %q", r.GetModel())
	}
	if err := m.check(r.GetInputs()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	in, err := m.Prepare(r.GetInputs())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	defer in.Close()
	outputs, err := m.Run(in)
	if err != nil {
		return nil, err
	}
	return &inferencev1.PredictResponse{Model: r.GetModel(), Version: m.spec.Version, Digest: m.Digest, Outputs: outputs}, nil
}

// check refuses what the model was not made for; NaN is in no range.
func (m *served) check(inputs map[string]*inferencev1.Tensor) error {
	t := inputs["features"]
	columns := len(m.spec.Columns)
	shape := t.GetShape()
	if len(inputs) != 1 || len(shape) != 2 || shape[1] != int64(columns) || shape[0] < 1 || shape[0] > m.spec.MaxRows {
		return fmt.Errorf("want 1 to %d rows of %d features", m.spec.MaxRows, columns)
	}
	raw := t.GetRaw()
	if t.GetDataType() != inferencev1.DataType_DATA_TYPE_FLOAT32 || int64(len(raw)) != 4*shape[0]*shape[1] {
		return errors.New("want raw FLOAT32 elements")
	}
	for at := 0; at < len(raw); at += 4 * columns {
		row := raw[at : at+4*columns]
		for i, lowest := range m.spec.Min {
			v := math.Float32frombits(binary.LittleEndian.Uint32(row[4*i:]))
			if !(v >= lowest && v <= m.spec.Max[i]) {
				return fmt.Errorf("row %d: %s is out of range", at/(4*columns), m.spec.Columns[i])
			}
		}
	}
	return nil
}
