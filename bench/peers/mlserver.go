package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/peers/contract"
	"github.com/sallyport/sallyport/bench/peers/oip"
	"github.com/sallyport/sallyport/bench/process"
	"github.com/sallyport/sallyport/bench/target"
)

// inferred asks by the Open Inference Protocol.
type inferred struct {
	conns   []*grpc.ClientConn
	request *oip.ModelInferRequest
	wire    []byte
	headers metadata.MD
}

var _ asked = (*inferred)(nil)

// askOIP sends elements as raw bytes, which MLServer takes and gives faster than
// typed ones.
func askOIP(conns []*grpc.ClientConn, key string, q question) (*inferred, error) {
	n := &inferred{
		conns: conns,
		request: &oip.ModelInferRequest{
			ModelName: q.model,
			Inputs: []*oip.ModelInferRequest_InferInputTensor{
				{Name: "features", Datatype: "FP32", Shape: q.features.GetShape()},
			},
			RawInputContents: [][]byte{q.features.GetRaw()},
		},
		headers: metadata.Pairs(keyHeader, key),
	}
	var err error
	n.wire, err = proto.Marshal(n.request)
	return n, err
}

func (n *inferred) Caller(i int) load.Caller {
	call := target.UnaryOf(n.conns[i%len(n.conns)], oip.GRPCInferenceService_ModelInfer_FullMethodName, n.wire)
	return load.CallerFunc(func(ctx context.Context) error {
		return call.Call(metadata.NewOutgoingContext(ctx, n.headers))
	})
}

func (n *inferred) Answer(ctx context.Context) (a *Answer, err error) {
	// Each replica must answer, and all alike.
	for i, conn := range n.conns {
		r, err := oip.NewGRPCInferenceServiceClient(conn).ModelInfer(metadata.NewOutgoingContext(ctx, n.headers), n.request)
		if err != nil {
			return nil, err
		}
		one, err := ofOIP(r)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			if err := a.same(one); err != nil {
				return nil, fmt.Errorf("replicas differ: %w", err)
			}
		}
		a = one
	}
	return a, nil
}

// startMLServer starts a replica of MLServer on each core. Its own parallel
// workers are off: they cost a round trip through pickles and pipes for each call,
// which takes longer than the models (one caller, one row, 2 cores: 740 calls/s
// without, 250 with one, 130 with two; 4,096 rows: 43, 19, 47). A replica each uses
// the cores better, as a deployment would.
func startMLServer(ctx context.Context, cfg Config, models map[string]contract.Model, dir, config string) (*peer, error) {
	p := &peer{name: nameMLServer}
	python, err := cfg.environment(nameMLServer)
	if err != nil {
		return p, err
	}
	ports, err := freePorts(ctx, 2*cfg.Cores)
	if err != nil {
		return p, err
	}
	var conns []*grpc.ClientConn
	for i := range cfg.Cores {
		replica := filepath.Join(dir, fmt.Sprintf("replica-%d", i))
		for name, m := range models {
			if err := writeJSON(filepath.Join(replica, name, "model-settings.json"), map[string]any{
				"name": name, "implementation": "runtime.ONNXRuntime",
				"parameters": map[string]any{"version": strconv.FormatInt(m.Version, 10)},
			}); err != nil {
				return p, err
			}
		}
		if err := writeJSON(filepath.Join(replica, "settings.json"), map[string]any{
			"host": "127.0.0.1", "grpc_port": ports[2*i], "http_port": ports[2*i+1],
			"parallel_workers": 0, "debug": false, "metrics_endpoint": nil,
			"grpc_max_message_length": 16 << 20,
		}); err != nil {
			return p, err
		}
		opened, err := p.dial(max(1, connections/cfg.Cores), func() (*grpc.ClientConn, error) {
			return grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", ports[2*i]),
				grpc.WithTransportCredentials(insecure.NewCredentials()))
		})
		if err != nil {
			return p, err
		}
		conns = append(conns, opened...)
		client := oip.NewGRPCInferenceServiceClient(opened[0])
		if err := p.start(ctx, process.Config{
			Path: filepath.Join(python, "bin", "mlserver"), Args: []string{"start", "."}, Dir: replica,
			Env: []string{"PEER_CONFIG=" + config, "PYTHONPATH=" + cfg.source("mlserver") + ":" + cfg.source("python"), "PYTHONDONTWRITEBYTECODE=1"},
			Probe: func(ctx context.Context) error {
				for name := range models {
					r, err := client.ModelReady(ctx, &oip.ModelReadyRequest{Name: name}, grpc.WaitForReady(false))
					if err != nil {
						return err
					}
					if !r.GetReady() {
						return errors.New(name + " is not ready")
					}
				}
				return nil
			},
		}); err != nil {
			return p, err
		}
	}
	// One after the other from each replica, so that callers are spread evenly.
	spread := make([]*grpc.ClientConn, 0, len(conns))
	each := len(conns) / cfg.Cores
	for i := range each {
		for replica := range cfg.Cores {
			spread = append(spread, conns[replica*each+i])
		}
	}
	p.ask = func(q question) (asked, error) { return askOIP(spread, keys[q.who], q) }
	return p, nil
}

func writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
