package peers

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/peers/modelserver"
	"github.com/sallyport/sallyport/bench/target"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// connections is how many the callers of a gRPC peer share: a proxy gives each
// connection to one of its threads, so that one would not use them all.
const connections = 4

// native asks by the prediction API: of Sallyport, and of the server behind Envoy.
type native struct {
	conns   []*grpc.ClientConn
	request *inferencev1.PredictRequest
	wire    []byte
	headers metadata.MD
}

var _ asked = (*native)(nil)

func askNative(conns []*grpc.ClientConn, q question) (*native, error) {
	n := &native{
		conns:   conns,
		request: &inferencev1.PredictRequest{Model: q.model, Inputs: map[string]*inferencev1.Tensor{"features": q.features}},
		headers: metadata.Pairs(modelserver.ModelHeader, q.model),
	}
	var err error
	n.wire, err = proto.Marshal(n.request)
	return n, err
}

func (n *native) Caller(i int) load.Caller {
	call := target.Unary(n.conns[i%len(n.conns)], n.wire)
	return load.CallerFunc(func(ctx context.Context) error {
		return call.Call(metadata.NewOutgoingContext(ctx, n.headers))
	})
}

func (n *native) Answer(ctx context.Context) (*Answer, error) {
	r, err := inferencev1.NewPredictionServiceClient(n.conns[0]).Predict(metadata.NewOutgoingContext(ctx, n.headers), n.request)
	if err != nil {
		return nil, err
	}
	return ofTensors(r.GetOutputs())
}

// dialer opens connections that end with the peer.
func (p *peer) dial(n int, one func() (*grpc.ClientConn, error)) (conns []*grpc.ClientConn, err error) {
	for range n {
		conn, err := one()
		if err != nil {
			return nil, err
		}
		p.end = append(p.end, conn.Close)
		conns = append(conns, conn)
	}
	return conns, nil
}

// nativePeer has p ask by the prediction API.
func nativePeer(p *peer, site *target.Site, address string) error {
	at := &target.Process{Address: address}
	known := map[who][]*grpc.ClientConn{}
	var err error
	for caller, open := range map[who]func() (*grpc.ClientConn, error){
		bench:  func() (*grpc.ClientConn, error) { return site.Dial(at, 0) },
		narrow: func() (*grpc.ClientConn, error) { return site.Dial(at, 1) },
		stranger: func() (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(
				tlsconfig.TLSClientConfig(site.Source(0), tlsconfig.AuthorizeID(target.Server)))))
		},
	} {
		if known[caller], err = p.dial(connections, open); err != nil {
			return err
		}
	}
	p.ask = func(q question) (asked, error) { return askNative(known[q.who], q) }
	return nil
}

// startSallyport starts sallyport as `bench run` has it: every gate on, records
// durable before the answer.
func startSallyport(ctx context.Context, site *target.Site) (*peer, *target.Process, error) {
	server, err := site.StartSallyport(ctx, target.Sallyport{Policy: policy()})
	if err != nil {
		return nil, nil, err
	}
	p := &peer{name: nameSallyport}
	p.processes = append(p.processes, server.Process)
	if err := nativePeer(p, site, server.Address); err != nil {
		return p, nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return p, server, nil
}

// policy is that of `bench run`, but for caller 1, who may call the first model
// only.
func policy() string {
	text := target.Policy()
	text = strings.Replace(text, `"spiffe://sallyport.test/bench/*"`, strconv.Quote(target.Caller(0).String()), 1)
	return strings.Replace(text, "bindings:\n", `  - name: narrow
    rules:
      - {actions: [PREDICT, PREDICT_STREAM, DESCRIBE], models: [`+first+`]}
    limits: {requests_per_second: 1e9, request_burst: 1000000000, rows_per_second: 1e12, row_burst: 1000000000000, max_rows_per_request: 1000000, max_streams: 100000}
bindings:
  - {role: narrow, callers: [`+strconv.Quote(target.Caller(1).String())+`]}
`, 1)
}
