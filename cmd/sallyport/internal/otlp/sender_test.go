package otlp_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/otlp"
)

// A batch says whose it is, over TLS, with the secret that the file holds then.
func TestSendOverTLS(t *testing.T) {
	cert, ca := certificate(t)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := &collector{}
			address, _ := serve(t, protocol, c, "", cert)
			secret := filepath.Join(t.TempDir(), "secret")
			write := func(value string) {
				if err := os.WriteFile(secret, []byte(value), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("Bearer one\n")
			p := pump(sender(t, protocol, "https://"+address, func(cfg *otlp.Config) {
				cfg.TLS.CA, cfg.Headers = ca, []otlp.HeaderFile{{Name: "authorization", File: secret}}
			}))
			if _, err := p.Run(t.Context(), 1, reading(calls(1, 1))); err != nil {
				t.Fatal(err)
			}
			write("Bearer two\n")
			if _, err := p.Run(t.Context(), 2, reading(calls(2, 2))); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"Bearer one", "Bearer two"}, c.headers); diff != "" {
				t.Error(diff)
			}
			got := c.last.GetResourceLogs()[0]
			for _, want := range []string{`"service.name"`, `"sallyport"`, `"service.version"`, `"1.2.3"`, `"host.name"`, `"host-1"`} {
				if text := prototext.Format(got.GetResource()); !strings.Contains(text, want) {
					t.Errorf("no %s in %s", want, text)
				}
			}
			if url := "https://opentelemetry.io/schemas/1.37.0"; got.GetSchemaUrl() != url || got.GetScopeLogs()[0].GetSchemaUrl() != url {
				t.Errorf("schema %s", got.GetSchemaUrl())
			}
		})
	}
}

// A collector that is not who its certificate must say gets nothing.
func TestSendToStranger(t *testing.T) {
	cert, _ := certificate(t)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := &collector{}
			address, _ := serve(t, protocol, c, "", cert)
			s := sender(t, protocol, "https://"+address, func(cfg *otlp.Config) { cfg.GiveUp = 50 * time.Millisecond })
			_, err := pump(s).Run(t.Context(), 1, reading(calls(1, 1)))
			if err == nil || !strings.Contains(err.Error(), "certificate") || !strings.Contains(err.Error(), "given up after") || c.requests != 0 {
				t.Errorf("%v, %d requests", err, c.requests)
			}
		})
	}
}

func TestRetries(t *testing.T) {
	wait := func(d time.Duration) error {
		st, err := status.New(codes.ResourceExhausted, "slow down").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
		if err != nil {
			panic(err)
		}
		return st.Err()
	}
	for _, tt := range []struct {
		name     string
		protocol string // "" for both
		err      error  // of the first two requests
		want     string // in the error; "" if it is sent at last
		requests int
		atLeast  time.Duration
	}{
		{name: "unavailable", err: status.Error(codes.Unavailable, "restarting"), requests: 3},
		{name: "exhausted, and when to come back", err: wait(time.Second), requests: 3, atLeast: 2 * time.Second},
		{name: "exhausted for good", protocol: otlp.GRPC, err: status.Error(codes.ResourceExhausted, "over quota"), want: "RESOURCE_EXHAUSTED: over quota", requests: 1},
		{name: "exhausted, which over HTTP is worth another attempt", protocol: otlp.HTTP, err: status.Error(codes.ResourceExhausted, "busy"), requests: 3},
		{name: "refused", err: status.Error(codes.InvalidArgument, "bad"), want: "bad", requests: 1},
		{name: "not let in", err: status.Error(codes.Unauthenticated, "who?"), want: "who?", requests: 1},
		{name: "deadline", protocol: otlp.GRPC, err: status.Error(codes.DeadlineExceeded, "late"), requests: 3},
	} {
		for _, protocol := range protocols {
			if tt.protocol != "" && tt.protocol != protocol {
				continue
			}
			t.Run(tt.name+" "+protocol, func(t *testing.T) {
				t.Parallel()
				c := &collector{answer: func(_ context.Context, n int, _ *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
					if n <= 2 {
						return nil, tt.err
					}
					return &collectorv1.ExportLogsServiceResponse{}, nil
				}}
				address, _ := serve(t, protocol, c, "")
				began := time.Now()
				summary, err := pump(sender(t, protocol, "http://"+address)).Run(t.Context(), 1, reading(calls(1, 3)))
				if tt.want == "" && (err != nil || summary.Sent != 3 || len(c.sequences()) != 3) {
					t.Errorf("%+v, %v", summary, err)
				}
				if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || summary.Sent != 0) {
					t.Errorf("%+v, %v", summary, err)
				}
				if c.requests != tt.requests {
					t.Errorf("%d requests, want %d", c.requests, tt.requests)
				}
				if took := time.Since(began); took < tt.atLeast {
					t.Errorf("after %s, want at least %s", took, tt.atLeast)
				}
			})
		}
	}
}

// An attempt that is not answered in time is made again.
func TestTimeout(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := &collector{answer: func(ctx context.Context, n int, _ *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
				if n == 1 {
					<-ctx.Done()
					return nil, status.FromContextError(ctx.Err()).Err()
				}
				return &collectorv1.ExportLogsServiceResponse{}, nil
			}}
			address, _ := serve(t, protocol, c, "")
			s := sender(t, protocol, "http://"+address, func(cfg *otlp.Config) { cfg.Timeout = 200 * time.Millisecond })
			if summary, err := pump(s).Run(t.Context(), 1, reading(calls(1, 3))); err != nil || summary.Sent != 3 || c.requests != 2 {
				t.Errorf("%+v, %v, %d requests", summary, err, c.requests)
			}
		})
	}
}

// What a collector rejects out of a batch is counted and not sent again.
func TestPartialSuccess(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := &collector{answer: func(context.Context, int, *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
				return &collectorv1.ExportLogsServiceResponse{PartialSuccess: &collectorv1.ExportLogsPartialSuccess{RejectedLogRecords: 2, ErrorMessage: "too old"}}, nil
			}}
			address, _ := serve(t, protocol, c, "")
			summary, err := pump(sender(t, protocol, "http://"+address)).Run(t.Context(), 1, reading(calls(1, 3)))
			if err != nil || summary.Sent != 3 || summary.Rejected != 2 || c.requests != 1 {
				t.Errorf("%+v, %v, %d requests", summary, err, c.requests)
			}
		})
	}
}

// Only OTLP says that records were taken, and only the host that was named gets
// them.
func TestNotACollector(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"a web site": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "200 OK, but the answer is not of OTLP"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "307"},
		"not found":       {http.NotFound, "404"},
		"a bare 200":      {func(http.ResponseWriter, *http.Request) {}, ""},
		"an internal one": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "500"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tt.handler)
			defer server.Close()
			_, err := pump(sender(t, otlp.HTTP, server.URL)).Run(t.Context(), 1, reading(calls(1, 1)))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}
