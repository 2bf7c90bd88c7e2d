package main_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// generous lets the clinic do what a test has the time for.
const generous = `
roles:
  - name: everything
    rules:
      - actions: [PREDICT, PREDICT_STREAM, DESCRIBE]
        models: ["*"]
    limits: {requests_per_second: 1e6, rows_per_second: 1e9, max_streams: 64}
bindings:
  - role: everything
    callers: ["spiffe://sallyport.test/clinic/*"]
`

// caller is a workload with its connection to a server.
type caller struct {
	inferencev1.PredictionServiceClient
	conn   *grpc.ClientConn
	source *identity.Source
}

// as connects as a workload of dev, for the length of the test.
func (s *server) as(t testing.TB, workload string) *caller {
	t.Helper()
	source, err := identity.Open(t.Context(), identity.Config{WorkloadAPI: s.socket(workload)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = source.Close() })
	c, err := s.dial(source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

// dial makes a connection, which is for the test to close.
func (s *server) dial(source *identity.Source) (*caller, error) {
	creds, err := identity.NewClientCredentials(source, identity.DefaultServer())
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(creds), grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	return &caller{inferencev1.NewPredictionServiceClient(conn), conn, source}, nil
}

const breastCancer = "breast-cancer"

// measurements are rows for breastCancer, all zero, which its contract lets pass.
func measurements(rows int) map[string]*inferencev1.Tensor {
	return map[string]*inferencev1.Tensor{"features": {
		DataType: inferencev1.DataType_DATA_TYPE_FLOAT32,
		Shape:    []int64{int64(rows), 30},
		Raw:      make([]byte, rows*30*4),
	}}
}

// predict makes a call with one row. The id is that of the call if the server
// answered it, be it with a refusal; else it is empty.
func (c *caller) predict(ctx context.Context, name string) (id string, err error) {
	var header metadata.MD
	_, err = c.Predict(ctx, &inferencev1.PredictRequest{Model: name, Inputs: measurements(1)}, grpc.Header(&header))
	if err != nil {
		return refusedCall(err), err
	}
	if ids := header.Get(interceptors.CallIDHeader); len(ids) == 1 {
		return ids[0], nil
	}
	return "", fmt.Errorf("answered without one call id: %v", header)
}

// refusedCall is the id of the call that the server refused; empty if the error
// is of the transport.
func refusedCall(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RequestInfo); ok {
			return info.GetRequestId()
		}
	}
	return ""
}

type predictStream = grpc.BidiStreamingClient[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse]

// open opens a stream of batches and returns it with the server's first answer.
func (c *caller) open(ctx context.Context, name string) (predictStream, *inferencev1.StreamOpened, error) {
	stream, err := c.PredictStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	// Of an error here Recv knows the reason.
	_ = stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{Open: &inferencev1.StreamOpen{Model: name}}})
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	return stream, first.GetOpened(), nil
}

func batch(sequence uint64, rows int) *inferencev1.PredictStreamRequest {
	return &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
		Batch: &inferencev1.StreamBatch{Sequence: sequence, Inputs: measurements(rows)},
	}}
}

// get asks the operator's listener.
func (s *server) get(ctx context.Context, path string) (code int, body string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	r.Close = true // no goroutine of ours stays
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// metrics are the families that the server shows now, by name.
func (s *server) metrics(t testing.TB) metrics {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

type metrics map[string]*dto.MetricFamily

// value adds up the metrics of a family that have these labels, given as name
// and value in turn. Of a histogram it is the count.
func (m metrics) value(family string, labels ...string) float64 {
	sum := 0.0
next:
	for _, metric := range m[family].GetMetric() {
		has := map[string]string{}
		for _, l := range metric.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		for i := 0; i < len(labels); i += 2 {
			if has[labels[i]] != labels[i+1] {
				continue next
			}
		}
		sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
	}
	return sum
}

// records reads the whole audit log of a dev directory, which must fit together.
func (s *server) records(t testing.TB) []*auditv1.Record {
	t.Helper()
	var all []*auditv1.Record
	for r, err := range (audit.View{Dir: s.dir + "/audit"}).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}
