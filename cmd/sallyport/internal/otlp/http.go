package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

const protobufType = "application/x-protobuf"

// maxAnswerBytes bounds what is read of an answer.
const maxAnswerBytes = 1 << 20

type httpTransport struct {
	url       string
	client    *http.Client
	transport *http.Transport
	userAgent string
	headers   []HeaderFile
}

func newHTTP(u *url.URL, tlsConfig *tls.Config, cfg Config) *httpTransport {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     tlsConfig,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        1,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: cfg.Timeout,
	}
	return &httpTransport{
		url: u.String(), transport: transport, userAgent: userAgent + cfg.Version, headers: cfg.Headers,
		client: &http.Client{
			Transport: transport,
			// Records and secrets go where the operator said and nowhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (t *httpTransport) close() error {
	t.transport.CloseIdleConnections()
	return nil
}

func (t *httpTransport) send(ctx context.Context, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	pairs, err := readHeaders(t.headers)
	if err != nil {
		return nil, err
	}
	body, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	post.Header.Set("Content-Type", protobufType)
	post.Header.Set("User-Agent", t.userAgent)
	for i := 0; i < len(pairs); i += 2 {
		post.Header.Set(pairs[i], pairs[i+1])
	}
	got, err := t.client.Do(post)
	if err != nil {
		return nil, &attemptError{err: err, retry: true}
	}
	defer func() { _ = got.Body.Close() }() // it was read, or will not be
	answer, err := io.ReadAll(io.LimitReader(got.Body, maxAnswerBytes))
	if err != nil {
		// Whether it took the records is not known.
		return nil, &attemptError{err: fmt.Errorf("read the answer: %w", err), retry: true}
	}
	return ofResponse(got, answer)
}

// ofResponse reads an answer. One that is not OTLP does not say that the records
// were taken: any web server answers 200. A bare 2xx without a body is let pass,
// as some collectors give it.
func ofResponse(got *http.Response, body []byte) (*collectorv1.ExportLogsServiceResponse, error) {
	contentType, _, _ := mime.ParseMediaType(got.Header.Get("Content-Type"))
	isProtobuf := contentType == protobufType
	if got.StatusCode/100 == 2 {
		answer := new(collectorv1.ExportLogsServiceResponse)
		if len(body) > 0 && (!isProtobuf || proto.Unmarshal(body, answer) != nil) {
			return nil, &attemptError{err: fmt.Errorf("%s, but the answer is not of OTLP: is the URL right?", got.Status)}
		}
		return answer, nil
	}
	failure := &attemptError{err: errors.New(got.Status)}
	reason := new(status.Status)
	if isProtobuf && proto.Unmarshal(body, reason) == nil && reason.GetMessage() != "" {
		failure.err = fmt.Errorf("%s: %s", got.Status, reason.GetMessage())
	}
	switch got.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		failure.retry = true
		failure.after = retryAfter(got.Header.Get("Retry-After"), time.Now())
	}
	return nil, failure
}

// retryAfter reads the header of that name: seconds or a date.
func retryAfter(s string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
