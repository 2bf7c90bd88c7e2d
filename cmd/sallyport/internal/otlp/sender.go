// Package otlp sends records of the audit log to an OpenTelemetry collector, so
// that none is lost: a batch counts as sent when the collector said so, and is
// sent again until then.
//
// It speaks OTLP itself. OpenTelemetry's SDK is made for telemetry: it may drop
// what it cannot send, without a word to whoever gave it.
package otlp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

const userAgent = "sallyport-audit-export/"

// Config is where records go. URL, Protocol and Body are required.
type Config struct {
	// URL of the collector; http only on loopback. For HTTP, a URL without a path
	// gets /v1/logs.
	URL string
	// Protocol is GRPC or HTTP.
	Protocol string
	Headers  []HeaderFile
	TLS      TLSFiles
	// Body is a line about a record for people.
	Body func(*auditv1.Record) string
	// Version of this program, and Host that the records are of; may be empty.
	Version, Host string
	// Timeout bounds an attempt: default 10 s.
	Timeout time.Duration
	// GiveUp is how long a batch is tried again; 0 is for ever.
	GiveUp time.Duration
	// Backoff is how long to wait between attempts if the collector does not say.
	Backoff Backoff
	// Log hears of attempts that failed and of what the collector rejected.
	Log *slog.Logger
}

// Backoff doubles from First, by default a second, to Longest, by default 30 s.
type Backoff struct{ First, Longest time.Duration }

const backoffGrowth = 2

// longestWait bounds what a collector may ask for.
const longestWait = 10 * time.Minute

// transport makes one attempt. An *attemptError says whether another is worth
// it; any other error says that it is not.
type transport interface {
	send(context.Context, *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error)
	close() error
}

// attemptError is why an attempt failed.
type attemptError struct {
	err   error
	retry bool
	// after is how long the collector asks to wait; 0 if it does not.
	after time.Duration
}

func (e *attemptError) Error() string { return e.err.Error() }
func (e *attemptError) Unwrap() error { return e.err }

// Sender sends batches to one collector, one at a time. Close it to end its
// connections.
type Sender struct {
	cfg       Config
	transport transport
	resource  *resourcev1.Resource
}

// NewSender returns a Sender; it does not connect yet.
func NewSender(cfg Config) (*Sender, error) {
	cfg.Timeout = cmp.Or(cfg.Timeout, 10*time.Second)
	cfg.Backoff.First = cmp.Or(cfg.Backoff.First, time.Second)
	cfg.Backoff.Longest = cmp.Or(cfg.Backoff.Longest, 30*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Body == nil {
		return nil, errors.New("otlp: no body given")
	}
	u, err := parseEndpoint(cfg.Protocol, cfg.URL)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	if _, err := readHeaders(cfg.Headers); err != nil {
		return nil, err // now rather than after the first batch
	}
	s := &Sender{cfg: cfg}
	var about attributes
	about.text(attrServiceName, "sallyport")
	about.text(attrServiceVersion, cfg.Version)
	about.text(attrHostName, cfg.Host)
	s.resource = &resourcev1.Resource{Attributes: about}
	if cfg.Protocol == GRPC {
		s.transport, err = newGRPC(u, tlsConfig, cfg)
	} else {
		s.transport = newHTTP(u, tlsConfig, cfg)
	}
	return s, err
}

// Close ends the connections.
func (s *Sender) Close() error { return s.transport.close() }

// Send sends a batch until the collector has it, and returns how many records of
// it the collector rejected: those are not sent again, as OTLP demands. It blocks
// until then, or until ctx ends, the collector refuses in a way that will not
// change, or Config.GiveUp has passed; then the collector may or may not have the
// records.
func (s *Sender) Send(ctx context.Context, batch []*logsv1.LogRecord) (rejected int64, err error) {
	req := &collectorv1.ExportLogsServiceRequest{ResourceLogs: []*logsv1.ResourceLogs{{
		Resource:  s.resource,
		SchemaUrl: schemaURL,
		ScopeLogs: []*logsv1.ScopeLogs{{
			Scope:      &commonv1.InstrumentationScope{Name: "sallyport.audit", Version: s.cfg.Version},
			LogRecords: batch,
			SchemaUrl:  schemaURL,
		}},
	}}}
	began, wait := time.Now(), s.cfg.Backoff.First
	for attempt := 1; ; attempt++ {
		answer, err := s.attempt(ctx, req)
		if err == nil {
			return s.partial(answer), nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		var failure *attemptError
		if !errors.As(err, &failure) || !failure.retry {
			return 0, fmt.Errorf("the collector does not take the records: %w", err)
		}
		pause := min(failure.after, longestWait)
		if pause == 0 {
			pause = wait/2 + rand.N(wait/2+1) //nolint:gosec // spreads load, guards nothing
			wait = min(wait*backoffGrowth, s.cfg.Backoff.Longest)
		}
		if s.cfg.GiveUp > 0 && time.Since(began)+pause > s.cfg.GiveUp {
			return 0, fmt.Errorf("given up after %d attempts in %s: %w", attempt, time.Since(began).Round(time.Millisecond), err)
		}
		s.cfg.Log.Warn("collector: will try again", slog.Int("attempt", attempt), slog.Duration("in", pause), slog.Any("error", err))
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (s *Sender) attempt(ctx context.Context, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	return s.transport.send(ctx, req)
}

// partial tells what the collector says of a batch that it took in part, or with
// a warning.
func (s *Sender) partial(answer *collectorv1.ExportLogsServiceResponse) (rejected int64) {
	p := answer.GetPartialSuccess()
	rejected = max(p.GetRejectedLogRecords(), 0)
	if rejected > 0 {
		s.cfg.Log.Error("collector: records rejected", slog.Int64("records", rejected), slog.String("message", p.GetErrorMessage()))
	} else if p.GetErrorMessage() != "" {
		s.cfg.Log.Warn("collector: warning", slog.String("message", p.GetErrorMessage()))
	}
	return rejected
}
