// Package sallyport is a client of Sallyport servers whose identity comes from
// the SPIFFE Workload API, and stays fresh: when the workload gets a newer SVID,
// or the server's nears its end, calls move to a connection made anew, and no
// call fails for it.
package sallyport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
)

// Config says which server to call, and as whom.
type Config struct {
	// Server is HOST:PORT; required.
	Server string
	// WorkloadAPI is the address of the SPIFFE Workload API: a URI, or the path of
	// a unix socket. Empty: what SPIFFE_ENDPOINT_SOCKET says.
	WorkloadAPI string
	// ServerID says which server is meant; identity.DefaultServer if nil.
	ServerID spiffeid.Matcher
	// Token gives the token of the user on whose behalf calls are made, for every
	// call anew; nil if there is none. It is sent as the bearer of `authorization`
	// and only to a server whose identity was proved. It may be called concurrently
	// and must not block for long.
	Token func(context.Context) (string, error)
	// Retry says how often a unary call is made again.
	Retry Retry
	// StartTimeout is how long Dial waits for the first SVID; 30 s if zero.
	StartTimeout time.Duration
	// MaxAnswerBytes is the largest message taken from a server; 64 MiB if zero.
	MaxAnswerBytes int
	// Log gets rotations and troubles; nothing is logged if it is nil.
	Log *slog.Logger
}

// Client calls a server. It is safe for concurrent use. As a
// grpc.ClientConnInterface it serves every generated client.
//
// A unary call that a server could not take or whose answer was lost is made
// again, as Retry says: every unary method of a Sallyport server may be called
// again, at the price of quota and of a record for each time.
type Client struct {
	cfg    Config
	source *identity.Source
	conns  *connections
	// reached tells that a server has answered, so that one that cannot be reached
	// any more may come back. Before, its address is more likely to be wrong.
	reached atomic.Bool
	// ctx ends with the client; its cause is errClosed.
	ctx    context.Context
	cancel context.CancelCauseFunc
	close  func() error

	mu      sync.Mutex // guards closed, and that streams only grows before it
	closed  bool
	streams sync.WaitGroup
}

var _ grpc.ClientConnInterface = (*Client)(nil)

// Dial blocks until the Workload API has issued an SVID, ctx is done or
// StartTimeout has passed. The connection itself is made by the first call,
// which fails at once if it cannot be made. The caller closes the client.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if _, port, err := net.SplitHostPort(cfg.Server); err != nil || port == "" {
		return nil, fmt.Errorf("server %q: must be HOST:PORT", cfg.Server)
	}
	if cfg.ServerID == nil {
		cfg.ServerID = identity.DefaultServer()
	}
	cfg.Retry = cfg.Retry.withDefaults(4)
	cfg.MaxAnswerBytes = cmp.Or(cfg.MaxAnswerBytes, 64<<20)
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	source, err := identity.Open(ctx, identity.Config{WorkloadAPI: cfg.WorkloadAPI, StartTimeout: cfg.StartTimeout, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, source: source}
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if c.conns, err = connect(c.ctx, source, cfg); err != nil {
		c.cancel(errClosed)
		return nil, errors.Join(err, source.Close())
	}
	c.close = sync.OnceValue(c.shutdown)
	return c, nil
}

var errClosed = errors.New("the client is closed")

// Close ends all calls and streams and waits for them. Closing again is harmless.
func (c *Client) Close() error { return c.close() }

func (c *Client) shutdown() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel(errClosed)
	c.conns.close()
	c.streams.Wait()
	return c.source.Close()
}

// Predict runs a model once. It is Predict of the generated client. Once a server
// has answered, a call is also made again while that server's SVID or the client's
// own has expired. The attempts reach over half a second by default, and a Workload
// API may be away for longer: see Config.Retry.
func (c *Client) Predict(ctx context.Context, r *inferencev1.PredictRequest, opts ...grpc.CallOption) (*inferencev1.PredictResponse, error) {
	return inferencev1.NewPredictionServiceClient(c).Predict(ctx, r, opts...)
}

// Invoke makes a unary call, again if that may help.
func (c *Client) Invoke(ctx context.Context, method string, request, answer any, opts ...grpc.CallOption) error {
	for attempt := 1; ; attempt++ {
		err := c.invoke(ctx, method, request, answer, opts)
		if answered(err) {
			c.reached.Store(true)
		}
		if err == nil || attempt == c.cfg.Retry.Attempts || !c.again(ctx, err, c.reached.Load()) || !c.cfg.Retry.pause(ctx, attempt) {
			return err
		}
	}
}

func (c *Client) invoke(ctx context.Context, method string, request, answer any, opts []grpc.CallOption) error {
	g, opts, err := c.conns.take(opts)
	if err != nil {
		return err
	}
	return g.explain(g.conn.Invoke(ctx, method, request, answer, opts...))
}

// again tells whether the call that ended with err may have more luck. reached is
// that the server was there before.
func (c *Client) again(ctx context.Context, err error, reached bool) bool {
	if ctx.Err() != nil {
		return false
	}
	return retriable(err, reached) || c.cfg.Token != nil && reasonOf(err) == tokenExpired
}

// NewStream makes a streaming call over the newest connection. Such a call ends
// at the latest with the SVID that it was begun with; Stream moves before.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	g, opts, err := c.conns.take(opts)
	if err != nil {
		return nil, err
	}
	stream, err := g.conn.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, g.explain(err)
	}
	return &movingStream{stream, g.retired}, nil
}

// Stream opens a stream of batches and blocks until the server has opened it.
// It ends with ctx, or with the client.
func (c *Client) Stream(ctx context.Context, cfg StreamConfig) (*Stream, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, errClosed
	}
	c.streams.Add(1)
	c.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(errClosed) })
	s := newStream(ctx, c, cfg)
	s.again = func(err error) bool { return c.again(ctx, err, s.opened != nil || c.reached.Load()) }
	end := func() {
		stop()
		cancel(nil)
		c.streams.Done()
	}
	if err := s.start(); err != nil {
		end()
		return nil, err
	}
	c.reached.Store(true)
	go func() {
		<-s.over
		end()
	}()
	return s, nil
}
