package otlp_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/otlp"
	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector is an end of OTLP that keeps what it takes.
type collector struct {
	collectorv1.UnimplementedLogsServiceServer

	// answer decides about the nth request, from 1 on; nil takes all. What it
	// returns without an error was taken.
	answer func(ctx context.Context, n int, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error)
	// took is told of every batch that was taken, if it is not nil.
	took chan int

	mu       sync.Mutex // guards what follows
	requests int
	last     *collectorv1.ExportLogsServiceRequest
	headers  []string // values of "authorization"
	records  []*logsv1.LogRecord
	batches  []int // how many records each had that was taken
}

func (c *collector) Export(ctx context.Context, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c.mu.Lock()
	c.requests++
	n := c.requests
	c.last = req
	c.headers = append(c.headers, md.Get("authorization")...)
	c.mu.Unlock()
	answer, err := &collectorv1.ExportLogsServiceResponse{}, error(nil)
	if c.answer != nil {
		answer, err = c.answer(ctx, n, req)
	}
	if err == nil {
		taken := req.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords()
		c.mu.Lock()
		c.records = append(c.records, taken...)
		c.batches = append(c.batches, len(taken))
		c.mu.Unlock()
		if c.took != nil {
			c.took <- len(taken)
		}
	}
	return answer, err
}

// ServeHTTP is Export over HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	req := new(collectorv1.ExportLogsServiceRequest)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(body, req) != nil {
		http.Error(w, "not OTLP", http.StatusNotFound)
		return
	}
	answer, err := c.Export(metadata.NewIncomingContext(r.Context(), metadata.Pairs("authorization", r.Header.Get("Authorization"))), req)
	w.Header().Set("Content-Type", "application/x-protobuf")
	reply := proto.Message(answer)
	if err != nil {
		st := status.Convert(err)
		reply = st.Proto()
		for _, d := range st.Details() {
			if info, ok := d.(*errdetails.RetryInfo); ok {
				w.Header().Set("Retry-After", strconv.Itoa(int(info.GetRetryDelay().AsDuration().Seconds())))
			}
		}
		w.WriteHeader(cmp.Or(map[codes.Code]int{
			codes.Unavailable: http.StatusServiceUnavailable, codes.ResourceExhausted: http.StatusTooManyRequests,
			codes.InvalidArgument: http.StatusBadRequest, codes.Unauthenticated: http.StatusUnauthorized,
		}[st.Code()], http.StatusInternalServerError))
	}
	encoded, err := proto.Marshal(reply)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(encoded) // the client may be gone
}

// sequences are those of the records taken, in their order.
func (c *collector) sequences() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]int64, len(c.records))
	for i, r := range c.records {
		out[i] = r.GetAttributes()[0].GetValue().GetIntValue()
	}
	return out
}

// protocols are the ways to reach a collector.
var protocols = []string{otlp.GRPC, otlp.HTTP}

// serve serves c at address, "" for any, until stop is called or the test ends.
// With a certificate it speaks TLS.
func serve(t testing.TB, protocol string, c *collector, address string, certificates ...tls.Certificate) (at string, stop func()) {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var end func()
	if protocol == otlp.GRPC {
		var options []grpc.ServerOption
		if len(certificates) > 0 {
			options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: certificates})))
		}
		server := grpc.NewServer(options...)
		collectorv1.RegisterLogsServiceServer(server, c)
		serving.Go(func() { _ = server.Serve(listener) })
		end = server.Stop
	} else {
		server := &http.Server{Handler: c}
		if len(certificates) > 0 {
			server.TLSConfig = &tls.Config{Certificates: certificates}
			serving.Go(func() { _ = server.ServeTLS(listener, "", "") })
		} else {
			serving.Go(func() { _ = server.Serve(listener) })
		}
		end = func() { _ = server.Close() }
	}
	stop = sync.OnceFunc(func() {
		end()
		serving.Wait()
	})
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

// certificate is one for 127.0.0.1 and the file of its authority.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil) // for its certificate
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(block) {
		t.Fatal("no certificate")
	}
	return server.TLS.Certificates[0], ca
}

// sender sends to a collector, and tries again soon.
func sender(t testing.TB, protocol, url string, change ...func(*otlp.Config)) *otlp.Sender {
	t.Helper()
	cfg := otlp.Config{
		URL: url, Protocol: protocol, Version: "1.2.3", Host: "host-1",
		Body:    func(r *auditv1.Record) string { return "about " + r.GetCallId() },
		Backoff: otlp.Backoff{First: 5 * time.Millisecond, Longest: 20 * time.Millisecond},
		GiveUp:  30 * time.Second,
	}
	for _, f := range change {
		f(&cfg)
	}
	s, err := otlp.NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// calls are the records of a log from one sequence to another.
func calls(from, to uint64) iter.Seq2[*auditv1.Record, error] {
	return func(yield func(*auditv1.Record, error) bool) {
		for n := from; n <= to; n++ {
			r := &auditv1.Record{
				Sequence: n, Kind: auditv1.Kind_KIND_CALL, CallId: "call-" + strconv.FormatUint(n, 10),
				Time: timestamppb.New(time.Unix(int64(n), 0)), Duration: durationpb.New(time.Millisecond),
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// reading makes of records what a Pump runs on.
func reading(records iter.Seq2[*auditv1.Record, error]) func(context.Context) iter.Seq2[*auditv1.Record, error] {
	return func(context.Context) iter.Seq2[*auditv1.Record, error] { return records }
}

// pump sends all and forgets how far it came, unless changed.
func pump(s *otlp.Sender) *otlp.Pump {
	return &otlp.Pump{Sender: s, Match: func(*auditv1.Record) bool { return true }, Dealt: func(otlp.Cursor) error { return nil }}
}
