// Package sallyport is a client of Sallyport servers whose identity comes from
// the SPIFFE Workload API, and stays fresh: when the workload gets a newer SVID,
// or a server's nears its end, calls move to connections made anew, and no call
// fails for it.
//
// Several servers are one service to it: calls are spread over those that can be
// reached and have proved that they are who they should be, and one that is lost,
// drains or refuses a call for a reason of its own costs no call and no batch:
// both go elsewhere.
//
// A call is made again only if that may help and is allowed: the server was lost
// or said UNAVAILABLE or OVERLOADED, or an identity has ended that will be
// renewed; Retry has attempts left; the server asks for no longer wait; the
// caller's context leaves the time; and the client's Budget is not used up. What
// is over quota is never sent again by itself.
package sallyport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
)

// Config says which servers to call, and as whom.
type Config struct {
	// Servers are one or more HOST:PORT that serve the same models. A name counts
	// for all of its addresses and is looked up again twice a minute, and when a
	// connection fails.
	Servers []string
	// Balance says which of them gets the next call; RoundRobin if zero.
	Balance Balance
	// WorkloadAPI is the address of the SPIFFE Workload API: a URI, or the path of
	// a unix socket. Empty: what SPIFFE_ENDPOINT_SOCKET says.
	WorkloadAPI string
	// ServerID says who a server must be, each of them; identity.DefaultServer if
	// nil. One that is not is never used, and the log says so.
	ServerID spiffeid.Matcher
	// Token gives the token of the user on whose behalf calls are made, for every
	// call anew; nil if there is none. It is sent as the bearer of `authorization`
	// and only to a server whose identity was proved. It may be called concurrently
	// and must not block for long.
	Token func(context.Context) (string, error)
	// Retry says how often a unary call is made again.
	Retry Retry
	// Budget bounds that for all calls together.
	Budget Budget
	// StartTimeout is how long Dial waits for the first SVID; 30 s if zero.
	StartTimeout time.Duration
	// MaxAnswerBytes is the largest message taken from a server; 64 MiB if zero.
	MaxAnswerBytes int
	// Log gets rotations and troubles; nothing is logged if it is nil.
	Log *slog.Logger

	lookup *net.Resolver // net.DefaultResolver if nil, but in tests
}

// Client calls servers. It is safe for concurrent use. As a
// grpc.ClientConnInterface it serves every generated client.
//
// A unary call that a server could not take or whose answer was lost is made
// again, as Retry and Budget say: every unary method of a Sallyport server may be
// called again, at the price of quota and of a record for each time.
type Client struct {
	cfg         Config
	source      *identity.Source
	conns       *connections
	budget      *budget
	predictions inferencev1.PredictionServiceClient
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
// StartTimeout has passed. Connections themselves are made by the first call,
// which fails at once if none can be made. The caller closes the client.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Servers = slices.Clone(cfg.Servers)
	if cfg.ServerID == nil {
		cfg.ServerID = identity.DefaultServer()
	}
	cfg.Retry = cfg.Retry.withDefaults(4)
	cfg.MaxAnswerBytes = cmp.Or(cfg.MaxAnswerBytes, 64<<20)
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	cfg.lookup = cmp.Or(cfg.lookup, net.DefaultResolver)
	source, err := identity.Open(ctx, identity.Config{WorkloadAPI: cfg.WorkloadAPI, StartTimeout: cfg.StartTimeout, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, source: source, budget: newBudget(cfg.Budget, time.Now)}
	c.predictions = inferencev1.NewPredictionServiceClient(c)
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if c.conns, err = connect(c.ctx, source, cfg); err != nil {
		c.cancel(errClosed)
		return nil, errors.Join(err, source.Close())
	}
	c.close = sync.OnceValue(c.shutdown)
	return c, nil
}

func (cfg *Config) validate() error {
	var faults []error
	if len(cfg.Servers) == 0 {
		faults = append(faults, errors.New("servers: there must be one at least"))
	}
	for _, server := range cfg.Servers {
		if _, port, err := net.SplitHostPort(server); err != nil || port == "" {
			faults = append(faults, fmt.Errorf("server %q: must be HOST:PORT", server))
		}
	}
	return errors.Join(append(faults, cfg.Balance.validate())...)
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
	return c.predictions.Predict(ctx, r, opts...)
}

// Invoke makes a unary call, again if that may help. It blocks no longer than ctx.
// The error is that of the last attempt, as the server gave it; beside it may be
// ErrRetryBudget.
func (c *Client) Invoke(ctx context.Context, method string, request, answer any, opts ...grpc.CallOption) error {
	for attempt := 1; ; attempt++ {
		err := c.invoke(ctx, method, request, answer, opts)
		if answered(err) && !c.reached.Load() {
			c.reached.Store(true)
		}
		if err == nil {
			c.budget.earn()
			return nil
		}
		if attempt >= c.cfg.Retry.Attempts || !c.again(ctx, err, c.reached.Load()) {
			return err
		}
		wait, ok := c.cfg.Retry.wait(attempt, err, c.conns.elsewhere(err))
		if !ok || !fits(ctx, wait) {
			return err
		}
		if !c.budget.spend() {
			return fmt.Errorf("%w; %w", err, ErrRetryBudget)
		}
		if !pause(ctx, wait) {
			return err
		}
	}
}

func (c *Client) invoke(ctx context.Context, method string, request, answer any, opts []grpc.CallOption) error {
	g, err := c.conns.take()
	if err != nil {
		return err
	}
	err = g.conn.Invoke(ctx, method, request, answer, opts...)
	c.conns.release(g)
	return g.explain(err)
}

// again tells whether the call that ended with err may have more luck. reached is
// that the server was there before.
func (c *Client) again(ctx context.Context, err error, reached bool) bool {
	if ctx.Err() != nil {
		return false
	}
	return retriable(err, reached) || c.cfg.Token != nil && reasonOf(err) == tokenExpired
}

// NewStream makes a streaming call over the newest connections. Such a call ends
// at the latest with the SVID that it was begun with; Stream moves before.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	g, err := c.conns.take()
	if err != nil {
		return nil, err
	}
	// gRPC does not promise to tell it only once.
	ended := sync.OnceFunc(func() { c.conns.release(g) })
	stream, err := g.conn.NewStream(ctx, desc, method, append(slices.Clip(opts), grpc.OnFinish(func(error) { ended() }))...)
	if err != nil {
		ended()
		return nil, g.explain(err)
	}
	return &movingStream{stream, g}, nil
}

// Stream opens a stream of batches and blocks until a server has opened it. It
// stays with that server until it is lost or drains or identities are renewed, and
// ends with ctx, or with the client.
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
	s.spend, s.elsewhere = c.budget.spend, c.conns.elsewhere
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
