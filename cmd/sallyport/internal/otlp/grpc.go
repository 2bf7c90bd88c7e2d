package otlp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type grpcTransport struct {
	conn    *grpc.ClientConn
	client  collectorv1.LogsServiceClient
	headers []HeaderFile
}

func newGRPC(u *url.URL, tlsConfig *tls.Config, cfg Config) (*grpcTransport, error) {
	creds := credentials.NewTLS(tlsConfig)
	if u.Scheme == "http" {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient("dns:///"+u.Host,
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent(userAgent+cfg.Version),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // Send does it
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: cfg.Backoff.First, Multiplier: backoffGrowth, Jitter: 0.2, MaxDelay: cfg.Backoff.Longest},
			MinConnectTimeout: cfg.Timeout,
		}))
	if err != nil {
		return nil, err
	}
	return &grpcTransport{conn, collectorv1.NewLogsServiceClient(conn), cfg.Headers}, nil
}

func (t *grpcTransport) close() error { return t.conn.Close() }

func (t *grpcTransport) send(ctx context.Context, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	pairs, err := readHeaders(t.headers)
	if err != nil {
		return nil, err
	}
	answer, err := t.client.Export(metadata.AppendToOutgoingContext(ctx, pairs...), req)
	if err != nil {
		return nil, ofStatus(err)
	}
	return answer, nil
}

// ofStatus says which errors are worth another attempt, as the OTLP specification
// has it.
func ofStatus(err error) error {
	st := status.Convert(err)
	failure := &attemptError{err: fmt.Errorf("%s: %s", code.Code(st.Code()), st.Message())} //nolint:gosec // codes are small
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			failure.after = info.GetRetryDelay().AsDuration()
			failure.retry = st.Code() == codes.ResourceExhausted
		}
	}
	switch st.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		failure.retry = true
	default:
	}
	return failure
}
